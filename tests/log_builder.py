"""Certification logs made from counts, in the dialects of the published ones."""

import numpy as np

from rspipe.smoothing.certificates import ABSTAIN, certified_radius, clopper_pearson_lower

HEADER = "idx\tlabel\tpredict\tradius\tcorrect\ttime"


def three_digits(radius):
    return f"{radius:.3}"


def four_decimals(radius):
    return f"{radius:.4f}"


def rounded_down(radius):
    return f"{np.floor(radius * 1e6) / 1e6:.6f}"


def counts(images, n, *, seed):
    """Return class counts of the label's rival or the label itself [image]: many of them (almost) n."""
    rng = np.random.default_rng(seed)
    failures = np.floor(n * rng.beta(0.4, 2.0, images) ** 2).astype(int)
    return n - np.where(rng.random(images) < 0.1, 0, failures)


def rows(*, images=500, n=100_000, alpha=0.001, sigma=0.25, seed=0, step=20, written=three_digits):
    """Return the rows of a log as lists of cells, by image; about a quarter of the predictions are wrong."""
    rng = np.random.default_rng(seed + 1)
    n_a = counts(images, n, seed=seed)
    bound = clopper_pearson_lower(n_a, n, alpha=alpha)
    label = rng.integers(0, 10, images)
    predict = np.where(bound < 0.5, ABSTAIN, (label + (rng.random(images) < 0.25)) % 10)
    radius = np.where(bound < 0.5, 0.0, certified_radius(bound, sigma=sigma))
    return [
        [str(step * i), str(label[i]), str(predict[i]), written(radius[i]), str(int(predict[i] == label[i])), "15.4"]
        for i in range(images)
    ]


def text(cells, *, header=HEADER, end="\n"):
    """Return a log as bytes."""
    return end.join([header, *("\t".join(row) for row in cells), ""]).encode()
