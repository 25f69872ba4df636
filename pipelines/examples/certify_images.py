"""One call: certify a network of your own on images of your own. Takes seconds."""

from digits import digits, trained

import rspipe

SIGMA = 0.5

train, _, test = digits()
network = trained(train, sigma=SIGMA, seed=0)

# Any function from images to logits will do. Rule "planned" draws no more samples than an image needs.
result = rspipe.certify_dataset(network, test.images, test.labels, sigma=SIGMA, rule="planned", n=10_000, progress=True)

print(result)
print("certified accuracy at .25, .5, .75:", result.curve([0.25, 0.5, 0.75]))
print(result.to_pandas().head())
result.to_tsv("certified.tsv")  # a log in the columns of Cohen et al.
result.plot().savefig("certified.svg")
