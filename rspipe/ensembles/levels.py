"""The levels of a cascade over noise levels, chosen by what the calibration images lead to expect of it."""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import ndtri

from rspipe.arrays import FloatArray, IntArray


def expected_credits(levels: Sequence[tuple[float, IntArray]], *, cap: float, two_sided: bool = False) -> FloatArray:
    """Return [image] the radius that a cascade's certificate would have if its counts were shares, 0 where wrong.

    (v + 1/2) / (draws + 1) stands for the probability of a class that v draws return, in the radius of
    `rspipe.smoothing.cascades`.

    Args:
        levels: In their order: sigma, and draws [image, class] that return each class, the label's first.
        cap: The largest radius that certification can prove, in units of sigma.
        two_sided: Whether the last level answers below 1/2, too.
    """
    images = len(levels[0][1])
    radius, reach = np.zeros(images), np.full(images, np.inf)
    open_ = np.ones(images, dtype=bool)
    for at, (sigma, votes) in enumerate(levels):
        shares = (votes + 0.5) / (votes.sum(1, keepdims=True) + 1)
        ranked = np.sort(shares, axis=1)
        top, second = ranked[:, -1], np.minimum(ranked[:, -2], 1 - ranked[:, -1])
        own = sigma * np.minimum(ndtri(top), cap)
        if two_sided and at == len(levels) - 1:
            own = np.maximum(own, sigma / 2 * (ndtri(top) - ndtri(second)))
        answers = open_ & (own > 0)
        right = answers & (votes[:, 0] > votes[:, 1:].max(1))
        radius[right] = np.minimum(own, reach)[right]
        open_ &= ~answers
        reach = np.minimum(reach, np.maximum(-sigma * ndtri(top), 0.0))
    return radius


CRITERIA: dict[str, Callable[[FloatArray], float]] = {
    "radius": lambda radius: float(radius.mean()),
    "accuracy": lambda radius: float((radius > 0).mean()),
}
"""What is to be large, by its name in a study file, from radii [image]."""
