"""Cascades over noise levels: an answer at the largest sigma that is sure, else what the next level says.

Level i is a smoothed classifier with noise sigma_i that gives class c at x the probability p^i_c(x). The cascade
answers c at the first level where p^i_c(x) > 1/2; where no class of a level exceeds 1/2 it hands x on, and the last
level's word stands. That is one deterministic classifier of x, and its claims rest on counts of the same images at
every level, without a further forward pass.

q = Phi^-1. Each q(p^i_c) is 1/sigma_i-Lipschitz in x, and so is q(m_i) of the largest probability m_i. Within

    R = min(min_{i<j} -sigma_i q(m_i(x)), sigma_j q(p^j_c(x)))

every level before j therefore still hands on, and level j still answers c. With M_i the largest estimation count of
level i (no union over classes: it is at least that of the true top class), k_j that of the selected class c_j, and a
share a_j of alpha for stopping at level j, the claim is (c_j, R_j) at the j with R_j > 0 in

    R_j = min(min_{i<j} -sigma_i q(U(M_i, a_j)), sigma_j q(L(k_j, a_j))).

R_j exceeds the true R only if the bound that belongs to the smallest true term is wrong: probability a_j, without a
union over terms and for any dependence between levels. The shares may depend on the selection counts, and sum to 1 at
most. All of alpha for each claim would be wrong: near 1/2 both "answer" and "hand on" can be false.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from rspipe.arrays import FloatArray, IntArray
from rspipe.records import Cascade
from rspipe.smoothing.certificates import (
    ABSTAIN,
    certified_radius,
    certify_counts,
    check_alpha,
    check_can_certify,
    clopper_pearson_lower,
    clopper_pearson_upper,
    predict_counts,
    two_sided_counts,
)
from rspipe.smoothing.certify import BaseClassifier, check_sampling, class_counts
from rspipe.smoothing.counts import CountTable
from rspipe.smoothing.derivation import CertifiedClassifier
from rspipe.smoothing.noise import Noise, NoiseKind, Stream
from rspipe.smoothing.sampling import LOOKING, Rule

LIKELY_SHARE = 0.9
"""Of alpha for the level at which the selection says that the cascade stops; the others share the rest equally."""


@dataclass(frozen=True)
class CascadeCertificates:
    """Certified predictions of a cascade at some images: arrays [...] of the same shape."""

    prediction: IntArray
    """The class, or ABSTAIN = -1."""
    level: IntArray
    """Position of the level that answers; -1 where it abstains."""
    radius: FloatArray
    """Certified L2 radius in pixel units; 0 where abstained."""


def cascade(
    levels: Sequence[tuple[float, ArrayLike, ArrayLike]],
    *,
    alpha: float,
    shares: Sequence[float] | None = None,
    two_sided: bool = False,
) -> CascadeCertificates:
    """Return the certificates of a cascade over noise levels from counts, see `rspipe.smoothing.cascades`.

    Args:
        levels: In their order, usually from the largest sigma to the smallest: sigma, selection counts [..., class] and
            estimation counts [..., class] of the same images. All estimation samples must have been drawn, whatever the
            selection said. Order and classifiers are chosen before these counts are seen.
        alpha: Failure probability of each certificate.
        shares: Of alpha, for stopping at each level, sum 1 at most. By default .9 for the first level of which the
            largest selection count is more than half of them, or else the last one, and .1 for the others together.
        two_sided: Whether the last level bounds the runner-up, too, and can answer below 1/2; it is then another
            classifier, whose last level answers by its largest probability.

    Raises:
        ValueError: An argument is out of range, or a level has no counts of an image.
    """
    check_alpha(alpha)
    sigmas = [float(sigma) for sigma, _, _ in levels]
    selection, estimation = (np.stack([np.asarray(level[at]) for level in levels]) for at in (1, 2))
    if not all(np.issubdtype(counts.dtype, np.integer) for counts in (selection, estimation)):
        raise ValueError(f"counts must be whole numbers, got {selection.dtype} and {estimation.dtype}")
    if not (estimation.sum(-1) > 0).all():
        raise ValueError("every level needs the estimation samples of every image; certify with label_stop = false")
    return cascade_counts(sigmas, selection, estimation, alpha=alpha, shares=shares, two_sided=two_sided)


def cascade_counts(
    sigmas: Sequence[float],
    selection: IntArray,
    estimation: IntArray,
    *,
    alpha: float,
    shares: Sequence[float] | None = None,
    two_sided: bool = False,
    futile: IntArray | None = None,
) -> CascadeCertificates:
    """Return the certificates of a cascade from counts [level, ..., class].

    Args:
        sigmas: [level].
        selection: Counts of the samples that select each level's class.
        estimation: Of the others.
        alpha: As in `cascade`, as are `shares` and `two_sided`.
        futile: Pilot counts, beside those of the selection, of levels that were given up for what the pilot said; 0 of
            all others. Whether a level hands on is then shown by either, and each has half of the share.

    Raises:
        ValueError: There is one level, or the shares are no shares.
    """
    if len(sigmas) < 2:
        raise ValueError(f"a cascade has two levels or more, got {len(sigmas)}")
    if not all(0 < sigma < np.inf for sigma in sigmas):
        raise ValueError(f"sigma must be positive, got {list(sigmas)}")
    chances = _shares(selection, shares)
    at_stake = estimation if futile is None else np.where(futile.sum(-1, keepdims=True) > 0, futile, estimation)
    samples, halved = np.maximum(at_stake.sum(-1), 1), 1.0 if futile is None else 0.5
    prediction = np.full(selection.shape[1:-1], ABSTAIN, dtype=np.int64)
    level, radius = np.full_like(prediction, -1), np.zeros(prediction.shape)
    for stop, sigma in enumerate(sigmas):
        # A few different shares, of thousands of images.
        for share in np.unique(chances[stop]):
            those = (chances[stop] == share) & (prediction == ABSTAIN)
            if share == 0 or not those.any():
                continue
            counts = two_sided_counts if two_sided and stop == len(sigmas) - 1 else certify_counts
            own = counts(selection[stop][those], estimation[stop][those], sigma=sigma, alpha=share * alpha)
            reach = own.radius
            for before in range(stop):
                n = samples[before][those]
                bound = clopper_pearson_upper(at_stake[before][those].max(-1), n, alpha=halved * share * alpha)
                reach = np.minimum(reach, certified_radius(1 - bound, sigma=sigmas[before]))
            claimed = (own.prediction != ABSTAIN) & (reach > 0)
            prediction[those] = np.where(claimed, own.prediction, ABSTAIN)
            level[those] = np.where(claimed, stop, -1)
            radius[those] = np.where(claimed, reach, 0.0)
    return CascadeCertificates(prediction, level, radius)


def _shares(selection: IntArray, shares: Sequence[float] | None) -> FloatArray:
    """Return the share [level, ...] of alpha for stopping at each level, from the selection counts alone."""
    levels = len(selection)
    if shares is not None:
        if len(shares) != levels or min(shares) < 0 or sum(shares) > 1 + 1e-12:
            raise ValueError(
                f"shares must be one for each of {levels} levels, not negative, sum 1 at most, got {shares}"
            )
        return np.broadcast_to(np.reshape(shares, (-1, *[1] * (selection.ndim - 2))), selection.shape[:-1])
    sure = 2 * selection.max(-1) > selection.sum(-1)
    sure[-1] |= True
    at = np.arange(levels).reshape(-1, *[1] * (selection.ndim - 2))
    return np.where(at == sure.argmax(0), LIKELY_SHARE, (1 - LIKELY_SHARE) / (levels - 1))


@dataclass(frozen=True)
class CertifiedCascade:
    """The certificates of a cascade, ordered by example."""

    record: Cascade
    classifier: CertifiedClassifier
    level: IntArray
    """[example] position of the level that answers; -1 where it abstains."""


def certified_cascade(
    record: Cascade, levels: Sequence[CountTable], *, alpha: float | None = None
) -> CertifiedCascade | None:
    """Return the certificates of a cascade at the images that all its levels have counts of; None without any.

    Args:
        record: The cascade.
        levels: Counts of one classifier at each level.
        alpha: Failure probability of each certificate; the rule's when None.

    Raises:
        ValueError: The rule may end an image without the counts that a cascade needs.
    """
    rule = levels[0].rule
    check_cascade_rule(rule)
    examples = reduce(np.intersect1d, [counts.example for counts in levels])
    if not examples.size:
        return None
    rows = [np.searchsorted(counts.example, examples) for counts in levels]
    selection, estimation, pilot = (
        np.stack([getattr(counts, name)[at] for counts, at in zip(levels, rows, strict=True)])
        for name in ("selection", "estimation", "pilot")
    )
    given_up = np.stack([counts.stop[at] == "futility" for counts, at in zip(levels, rows, strict=True)])
    certificates = cascade_counts(
        record.sigmas,
        selection,
        estimation,
        alpha=levels[0].alpha if alpha is None else alpha,
        two_sided=record.two_sided,
        futile=np.where(given_up[..., None], pilot, 0) if rule.name == "planned" else None,
    )
    samples = np.stack([counts.samples[at] for counts, at in zip(levels, rows, strict=True)])
    noise = np.stack([counts.noise[at] for counts, at in zip(levels, rows, strict=True)])
    answering, images = np.maximum(certificates.level, 0), np.arange(examples.size)
    # An image that nobody answers has gone through all levels.
    drawn = np.where(certificates.level < 0, len(levels) - 1, certificates.level)
    selected = selection[answering, images].argmax(-1)
    classifier = CertifiedClassifier(
        id=record.id,
        kind="cascade",
        sigma=record.sigma,
        example=examples,
        label=levels[0].label[rows[0]],
        prediction=certificates.prediction,
        radius=certificates.radius,
        n_a=estimation[answering, images, selected],
        p_a_lower=np.full(examples.size, np.nan),
        n=estimation[answering, images].sum(-1),
        samples=samples.cumsum(0)[drawn, images],
        stopped=np.zeros(examples.size, dtype=bool),
        rule=rule.name,
        two_sided=float("nan"),
        seconds=float(sum(counts.seconds.sum() for counts in levels)),
        noise=np.where((noise == "float").any(0), "float", noise[0]),
    )
    return CertifiedCascade(record, classifier, certificates.level)


def check_cascade_rule(rule: Rule) -> None:
    """Raise ValueError unless a rule leaves the counts that cascades are made from."""
    if rule.name in LOOKING:
        raise ValueError(f"rule {rule.name} stops by its estimation samples, which a cascade may not use; use fixed")
    if rule.label_stop:
        raise ValueError(
            "a cascade needs the counts of a level that misses the label, which the next one may not miss; set "
            "label_stop = false in the rule"
        )


def predict_cascade(
    levels: Sequence[tuple[float, BaseClassifier]],
    x: Tensor,
    *,
    n: int = 1000,
    alpha: float = 0.001,
    two_sided: bool = False,
    seed: int = 0,
    example: int = 0,
    block_size: int = 1000,
    batch_size: int | None = None,
    noise: NoiseKind = "auto",
) -> int:
    """Return the class of a cascade over noise levels at x, or ABSTAIN = -1: PREDICT, level by level.

    With probability at least 1 - alpha over the noise, a class returned is the cascade's own, see
    `rspipe.smoothing.cascades`. A level draws its n samples where those before it have handed x on.

    Args:
        levels: Sigma and base classifier of each level, in order.
        x: One input, as in `rspipe.certify`.
        n: Samples of each level.
        alpha: Failure probability.
        two_sided: Whether the last level answers with its most frequent class, as in `cascade`.
        seed: Seed of the noise.
        example: Number of the input in its data set.
        block_size: Noise samples per block.
        batch_size: Samples per forward pass, a divisor of `block_size`; chosen by the size of x by default.
        noise: As in `rspipe.certify`.

    Raises:
        ValueError: An argument is out of range, n is too small to answer at alpha, or x is no input.
        ModelError: A base classifier failed, or returned no logits, NaN, +inf or a wrong shape.
    """
    if len(levels) < 2:
        raise ValueError(f"a cascade has two levels or more, got {len(levels)}")
    # Of two classes at 1/2 either can come out, and each level can answer too early.
    level_alpha = alpha / (2 * len(levels))
    check_can_certify(n, level_alpha)
    drawn = Noise(seed, example, block_size, batch_size, noise)
    for at, (sigma, base_classifier) in enumerate(levels):
        check_sampling(x, sigma=sigma, alpha=alpha, n=n)
        counts = class_counts(base_classifier, x, drawn, Stream.PREDICTION, sigma=sigma, n=n)
        if two_sided and at == len(levels) - 1:
            return predict_counts(counts, alpha=level_alpha)
        if (answer := predict_level(counts, alpha=level_alpha)) is not None:
            return answer
    return ABSTAIN


def predict_level(counts: IntArray, *, alpha: float) -> int | None:
    """Return what a level says by counts [class]: its class, ABSTAIN, or None where it hands on.

    Exact one-sided binomial tests of the largest count against half of the samples, each at level alpha.
    """
    top, n = int(counts.max()), int(counts.sum())
    if clopper_pearson_lower(top, n, alpha=alpha) > 0.5:
        return int(counts.argmax())
    return None if clopper_pearson_upper(top, n, alpha=alpha) < 0.5 else ABSTAIN
