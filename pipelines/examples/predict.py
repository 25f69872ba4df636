"""One classifier, certified and deployed: certificates and predictions of single images. Takes seconds."""

from digits import digits, trained

import rspipe

SIGMA = 0.5

train, _, test = digits()
network = trained(train, sigma=SIGMA, seed=0)

# The precision of the forward pass is part of the classifier: certify, and answer, with the same.
base_classifier = rspipe.deploy(network, precision="float32")


def said(prediction: int) -> str:
    """Return a prediction in words."""
    return "abstained" if prediction == rspipe.ABSTAIN else f"class {prediction}"


for x, label in zip(test.images[:5], test.labels[:5].tolist(), strict=True):
    certificate = rspipe.certify(base_classifier, x, sigma=SIGMA, n0=100, n=10_000, alpha=0.001, seed=0)
    # Faster, and without a radius: the class, or ABSTAIN where it is not clear at this alpha.
    answer = rspipe.predict(base_classifier, x, sigma=SIGMA, n=1_000, alpha=0.001, seed=0)
    print(f"label {label}: certified {said(certificate.prediction)}, radius {certificate.radius:.3f}; {said(answer)}")
