"""An ensemble with solved weights (EsbRs): moments of its members' margins, weights, certificates. Takes seconds."""

from digits import digits, trained

import rspipe

SIGMA = 0.5

train, held_out, test = digits()
networks = [trained(train, sigma=SIGMA, seed=seed, width=width) for seed, width in enumerate((16, 64, 64))]

# How far each member is ahead of each wrong class, on images that are not certified, under noise common to all.
moments = rspipe.margin_moments(networks, held_out.images, held_out.labels, sigma=SIGMA, draws=100)
solution = rspipe.choose_weights("esbrs_ratio", moments)
print("weights:", solution.weights.round(3), solution.status)

# Several networks are certified together and each alone, from the same noise.
result = rspipe.certify_dataset(networks, test.images, test.labels, sigma=SIGMA, weights=solution.weights, n=2_000)
print(result)

# As one base classifier, which `certify`, `predict` and `certify_dataset` take; among other models, list its members.
ensemble = rspipe.Ensemble(networks, weights=solution.weights)
certificate = rspipe.certify(ensemble, test.images[0], sigma=SIGMA, n=2_000)
print(certificate)
