"""Is the certified radius at least r? Looks at growing counts that mostly end after a few hundred samples.

p > p0 = Phi(r / sigma) is what the radius r needs. Two tests of p <= p0 share alpha. Betting, with `early_share` of it:
for a fixed p1 > p0 the likelihood ratio of p1 to p0 is a supermartingale where p <= p0, and so is its mixture M over
the uniform prior on (p0, 1), which starts at 1; by Ville's inequality M ever reaches 1 / a with probability a at most.
A last look at all n samples, by Clopper and Pearson's bound, has the rest. Any count that passes proves the radius,
whatever came before. Giving up costs power and no alpha.

Of several radii each has all of alpha and the claims are closed downwards: a radius counts only where all smaller ones
are proven, so a false claim includes the smallest false one, which has probability alpha at most.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import betaincc, betaln, ndtr
from torch import Tensor

from rspipe.arrays import BoolArray, FloatArray, IntArray
from rspipe.networks.modes import evaluating
from rspipe.smoothing.certificates import ABSTAIN, check_alpha, clopper_pearson_lower, clopper_pearson_upper
from rspipe.smoothing.certify import BaseClassifier, check_sampling, checked_logits, class_counts
from rspipe.smoothing.noise import Noise, NoiseKind, Stream, noisy_batches


@dataclass(frozen=True)
class DecisionLooks:
    """When a decision is taken: at t samples, k of them on the class prove the radius from `accept` on."""

    t: IntArray
    """[look] samples so far, ascending to n."""
    accept: IntArray
    """[look] fewest successes that prove the radius; t + 1 where none do."""
    give_up: IntArray
    """[look] most successes at which it is given up; -1 where none are, accept - 1 at the last look."""


def decision_looks(
    radius: float,
    *,
    sigma: float,
    n: int,
    alpha: float,
    early_share: float = 0.2,
    first: int = 100,
    growth: float = 1.1,
    step: int = 100,
    futility: float = 1e-3,
) -> DecisionLooks:
    """Return the looks at which a radius is decided, see `rspipe.smoothing.decisions`.

    Args:
        radius: To be proven, in pixel units; 0 asks for the class alone.
        sigma: Standard deviation of the noise, in pixel units.
        n: Samples, at most.
        alpha: Failure probability of the decision.
        early_share: Share of alpha for all looks by betting; the rest has the last look's bound.
        first: Samples of the first look.
        growth: Factor between looks, rounded up to multiples of `step`, which is the least distance.
        step: As said.
        futility: Chance, at most, at each look, of giving up where the last look would prove the radius.

    Raises:
        ValueError: An argument is out of range.
    """
    check_alpha(alpha)
    check_alpha(futility)
    if not (radius >= 0 and 0 < sigma < math.inf and math.isfinite(radius)):
        raise ValueError(f"radius must be at least 0 and sigma positive, got {radius} and {sigma}")
    if not (0 < early_share < 1 and first >= 1 and step >= 1 and growth >= 1 and n >= 1):
        raise ValueError(
            f"early_share must lie in (0, 1), and first, step, n and growth be at least 1, got {early_share}, {first}, "
            f"{step}, {n} and {growth}"
        )
    times = [min(first, n)]
    while times[-1] < n:
        times.append(min(n, max(times[-1] + step, math.ceil(times[-1] * growth / step) * step)))
    t, p0 = np.array(times, dtype=np.int64), needed_probability(radius, sigma=sigma)
    accept = _first(lambda k: proves_radius(k, t, p0, n=n, alpha=alpha, early_share=early_share), t)
    last = int(_first(lambda k: clopper_pearson_lower(k, n, alpha=(1 - early_share) * alpha) >= p0, np.array([n]))[0])
    likely = _first(lambda k: clopper_pearson_upper(np.minimum(k, t), t, alpha=futility) >= last / n, t) - 1
    give_up = np.minimum(accept - 1, np.maximum(likely, last - 1 - (n - t)))
    give_up[-1] = accept[-1] - 1
    return DecisionLooks(t, accept, give_up)


def needed_probability(radius: float, *, sigma: float) -> float:
    """Return a number just above Phi(radius / sigma), below 1: p beyond it has at least this radius."""
    return min(float(ndtr(radius / sigma)) * (1 + 1e-12), 1 - 2.0**-53)


def proves_radius(k: IntArray, t: IntArray, p0: float, *, n: int, alpha: float, early_share: float) -> BoolArray:
    """Return [...] whether k successes in t samples prove p > p0: by bets at any t, or at the last look, t = n.

    Args:
        k: Successes; below 0 where there are none to look at.
        t: Samples.
        p0: Of `needed_probability`.
        n: Samples of the last look.
        alpha: Failure probability.
        early_share: Share of alpha for the bets.
    """
    least = np.minimum(np.floor(p0 * t).astype(np.int64) + 1, t)
    # Beyond what rounding can add.
    bets = log_bets(np.clip(k, least, t), t, p0) >= -math.log(early_share * alpha) + 1e-9
    last = (k >= 0) & (t == n)
    bound = clopper_pearson_lower(np.where(last, np.minimum(k, n), 0), n, alpha=(1 - early_share) * alpha)
    return np.asarray(((k > p0 * t) & bets) | (last & (bound >= p0)), dtype=np.bool_)


def log_bets(k: IntArray, t: IntArray, p0: float) -> FloatArray:
    """Return log M of k successes in t samples, for k > p0 t: the mixture's likelihood ratio against p0."""
    tail = np.log(betaincc(k + 1, t - k + 1, p0))
    return np.asarray(
        betaln(k + 1, t - k + 1) + tail - math.log1p(-p0) - k * math.log(p0) - (t - k) * math.log1p(-p0),
        dtype=np.float64,
    )


def _first(holds: Callable[[IntArray], BoolArray], t: IntArray) -> IntArray:
    """Return [look] the smallest k in [0, t] of which something holds that holds of all larger ones; t + 1 if none."""
    low, high = np.zeros_like(t), t + 1
    while (low < high).any():
        middle = (low + high) // 2
        there = holds(np.minimum(middle, t)) & (middle <= t)
        low, high = np.where(there | (low >= high), low, middle + 1), np.where(there, middle, high)
    return low


@dataclass(frozen=True)
class Decision:
    """Whether the smoothed classifier's radius at one input is at least what was asked for."""

    prediction: int
    """The class where it is proven, or ABSTAIN = -1."""
    radius: float
    """The radius asked for where it is proven, else 0: no certified radius to be averaged with others."""
    n_a: int
    """Samples on the selected class."""
    samples: int
    """That were drawn for the decision, beside the n0 of the selection."""

    @property
    def proven(self) -> bool:
        """Whether the prediction is constant within the radius, but for a chance of alpha."""
        return self.prediction != ABSTAIN


def decide(
    base_classifier: BaseClassifier,
    x: Tensor,
    radius: float,
    *,
    sigma: float,
    n0: int = 100,
    n: int = 100_000,
    alpha: float = 0.001,
    seed: int = 0,
    example: int = 0,
    block_size: int = 1000,
    batch_size: int = 100,
    noise: NoiseKind = "auto",
) -> Decision:
    """Decide whether the smoothed classifier's certified radius at x is at least `radius`.

    With probability at least 1 - alpha over the noise, the smoothed classifier returns `prediction` everywhere within
    `radius` of x, or the decision abstains. It takes as many samples as it needs: a few hundred where p is well above
    or below what the radius needs, n next to it. Samples are the first ones of `rspipe.certify` with the same seed.

    Args:
        base_classifier: As in `rspipe.certify`, as are the errors.
        x: One input.
        radius: In the units of x.
        sigma: Standard deviation of the noise.
        n0: Samples that select the class.
        n: Samples of the decision, at most.
        alpha: Failure probability.
        seed: Seed of the noise.
        example: Number of the input in its data set.
        block_size: Noise samples per block.
        batch_size: Samples per forward pass, a divisor of `block_size`; what is drawn beyond a look is lost.
        noise: As in `rspipe.certify`.
    """
    check_sampling(x, sigma=sigma, alpha=alpha, n=n, n0=n0)
    looks = decision_looks(radius, sigma=sigma, n=n, alpha=alpha)
    if looks.accept[-1] > n:
        raise ValueError(f"n = {n} can never prove radius {radius:g} at sigma = {sigma:g} and alpha = {alpha:g}")
    drawn = Noise(seed, example, block_size, batch_size, noise)
    selected = int(class_counts(base_classifier, x, drawn, Stream.SELECTION, sigma=sigma, n=n0).argmax())
    n_a = position = look = 0
    with evaluating(base_classifier):
        for noisy, use in noisy_batches(x, drawn, Stream.ESTIMATION, sigma=sigma, n=n):
            hits = (checked_logits(base_classifier, noisy).argmax(1)[:use] == selected).cpu().numpy()
            while look < len(looks.t) and looks.t[look] <= position + use:
                k = n_a + int(hits[: looks.t[look] - position].sum())
                if k >= looks.accept[look]:
                    return Decision(selected, radius, k, int(looks.t[look]))
                if k <= looks.give_up[look]:
                    return Decision(ABSTAIN, 0.0, k, int(looks.t[look]))
                look += 1
            n_a, position = n_a + int(hits.sum()), position + use
    raise AssertionError("the last look decides")
