"""From stored counts to certificates, offline: another alpha, fewer samples, two-sided, soft, or PREDICT.

What a rule decided (the class, how many samples) came from the selection and the pilot alone, or is paid for by the
shares of alpha of all its looks. So every certificate here is as valid as if it had been planned from the beginning.
Asking for several and keeping the best is not: then each needs its share of alpha.

A rule ends an image early for the sake of CERTIFY's radius. Another certificate may say more of such an image than its
few samples show (two-sided and soft ones certify where futility gave up, PREDICT answers where the selection missed the
label), so the others are derived only from counts that hold every sample they need.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, Literal, get_args

import numpy as np

from rspipe.arrays import BoolArray, FloatArray, IntArray, TextArray
from rspipe.smoothing.certificates import (
    ABSTAIN,
    Certificates,
    certificates_from_bounds,
    certify_counts,
    check_alpha,
    check_can_certify,
    check_can_predict,
    predict_counts,
    rounded_down,
    two_sided_counts,
)
from rspipe.smoothing.counts import CountTable
from rspipe.smoothing.decisions import needed_probability, proves_radius
from rspipe.smoothing.metrics import average_certified_radius, credited_radius, saturated
from rspipe.smoothing.rules import Look, floor_to_grid, looks, proven
from rspipe.smoothing.sampling import LOOKING

CertificateKind = Literal["certify", "two_sided", "soft", "predict"]

KINDS: tuple[CertificateKind, ...] = get_args(CertificateKind)


def early_samples(counts: CountTable, sizes: IntArray) -> IntArray:
    """Return counts [row, class] of the first sizes[row] estimation samples, or of all where there are fewer.

    Exact where counts were noted at that number. Elsewhere so many samples are picked at random, without replacement,
    from the smallest noted number that is larger, by a generator seeded with (seed, example, size): as good a sample.
    """
    return np.stack([_first(counts, row, int(size)) for row, size in enumerate(sizes)])


def first_samples(counts: CountTable, n: int) -> CountTable:
    """Return the counts of the first n estimation samples of each row, see `early_samples`.

    Raises:
        ValueError: n is not positive or more than the rule's.
    """
    if not 1 <= n <= counts.n:
        raise ValueError(f"n must lie in [1, {counts.n}], the samples there are; got {n}")
    marks = counts.marks[counts.marks <= n]
    estimation = early_samples(counts, np.full(len(counts.estimation), n))
    prefix = np.concatenate([counts.prefix[:, : len(marks)], estimation[:, None]], axis=1)
    if len(marks) and marks[-1] == n:
        prefix = counts.prefix[:, : len(marks)]
    else:
        marks = np.append(marks, n)
        prefix[estimation.sum(-1) < n, -1] = -1
    chosen = replace(counts, n=n, estimation=estimation, marks=marks, prefix=prefix)
    if np.array_equal(estimation, counts.estimation):
        return chosen
    # Sums are of all samples; of fewer they were not kept.
    nothing = np.zeros((len(estimation), 0))
    return replace(chosen, probability_sum=nothing, probability_square=nothing)


def _first(counts: CountTable, row: int, n: int) -> IntArray:
    have: IntArray = counts.estimation[row]
    if have.sum() <= n:
        return have
    mark = int(np.searchsorted(counts.marks, n))
    if mark < len(counts.marks) and counts.prefix[row, mark, 0] >= 0:
        have = counts.prefix[row, mark]
        if counts.marks[mark] == n:
            return have
    generator = np.random.default_rng([counts.seed, int(counts.example[row]), n])
    return np.asarray(generator.multivariate_hypergeometric(have, n, method="marginals"), dtype=np.int64)


def derive(
    counts: CountTable, *, kind: CertificateKind = "certify", alpha: float | None = None, n: int | None = None
) -> Certificates:
    """Return the certificates that counts imply.

    `certify`: the rule's own. `two_sided`: `certificates.two_sided_counts`. `soft`: of the smoothed average
    of probabilities instead of votes, which is another classifier. `predict`: PREDICT's class, without a radius.

    Args:
        counts: Of one classifier, or of several at an image.
        kind: What to derive.
        alpha: Failure probability of each certificate; the rule's when None.
        n: Estimation samples, at most; all when None.

    Raises:
        ValueError: It cannot be derived from these counts, or alpha or n is out of range.
    """
    level, chosen = counts.alpha if alpha is None else alpha, counts if n is None else first_samples(counts, n)
    check_alpha(level)
    if kind != "certify":
        _check_whole(chosen, kind)
    if kind == "predict":
        return _predictions(chosen, alpha=level)
    if kind == "soft":
        return soft_counts(chosen, alpha=level)
    check_can_certify(chosen.n, level)
    if kind == "two_sided":
        return two_sided_counts(chosen.selection, chosen.estimation, sigma=chosen.sigma, alpha=level)
    if chosen.rule.name == "radius_grid":
        return _grid_certificates(chosen, alpha=level)
    if chosen.rule.name == "decide":
        return _decisions(chosen, alpha=level)
    return certify_counts(chosen.selection, chosen.estimation, sigma=chosen.sigma, alpha=level)


_NAMES: dict[CertificateKind, str] = {
    "two_sided": "the two-sided certificate",
    "soft": "the soft certificate",
    "predict": "PREDICT",
}

_EARLY = {"label": "after a selection that missed the label", "futility": "as futile", "planned": "by plan"}


def _check_whole(counts: CountTable, kind: CertificateKind) -> None:
    """Raise ValueError unless counts hold the samples that a certificate other than the rule's own needs.

    These are all n of every image. Where the selection missed the label, PREDICT alone needs them: by a certificate of
    the selected class the image counts 0 in any case.
    """
    name = _NAMES[kind]
    if counts.rule.name in LOOKING:
        raise ValueError(
            f"rule {counts.rule.name} stops by its estimation samples, which {name} may not use again; "
            "certify with rule fixed"
        )
    early = (counts.drawn < counts.n) & ((counts.stop != "label") | (kind == "predict"))
    if early.any():
        numbers = {text: int((counts.stop[early] == reason).sum()) for reason, text in _EARLY.items()}
        reasons = ", ".join(f"{number} {text}" for text, number in numbers.items() if number)
        remedy = "rule fixed and label_stop = false" if kind == "predict" else "rule fixed"
        raise ValueError(
            f"{name} needs all {counts.n:,} samples of every image, and some ended early ({reasons}): {counts.id}; "
            f"certify with {remedy}"
        )


def _grid_certificates(counts: CountTable, *, alpha: float) -> Certificates:
    """Return the largest radius of the grid that the looks have proven."""
    assert counts.rule.name == "radius_grid"
    schedule: tuple[Look, ...] = looks(counts.n, alpha)
    selected = counts.selection.argmax(-1)
    n_a = np.take_along_axis(counts.prefix, selected[:, None, None], -1)[..., 0]
    done = (counts.prefix[..., 0] >= 0).sum(-1)
    # Looks that no example has reached need not be noted.
    most = int(done.max(initial=0))
    assert [look.n for look in schedule[:most]] == counts.marks[:most].tolist()
    bound = np.zeros(len(selected))
    for reached in np.unique(done[done > 0]):
        those = done == reached
        bound[those] = proven(n_a[those, :reached], schedule)
    n_final = np.take_along_axis(counts.estimation, selected[:, None], -1)[:, 0]
    result = certificates_from_bounds(selected, n_final, bound, sigma=counts.sigma)
    return replace(result, radius=floor_to_grid(result.radius, counts.rule.grid))


def _decisions(counts: CountTable, *, alpha: float) -> Certificates:
    """Return the largest radius of the rule up to which all are proven, by any count that was noted or by the last."""
    rule = counts.rule
    assert rule.name == "decide"
    selected = counts.selection.argmax(-1)
    n_final = np.take_along_axis(counts.estimation, selected[:, None], -1)[:, 0]
    noted = np.take_along_axis(counts.prefix, selected[:, None, None], -1)[..., 0]
    k = np.append(noted, n_final[:, None], axis=1)
    t = np.append(np.tile(counts.marks, (len(noted), 1)), counts.drawn[:, None], axis=1)
    needed = [needed_probability(radius, sigma=counts.sigma) for radius in rule.radii]
    proven = [proves_radius(k, t, p0, n=counts.n, alpha=alpha, early_share=rule.early_share).any(1) for p0 in needed]
    reached = np.logical_and.accumulate(proven, axis=0).sum(0)
    return Certificates(
        prediction=np.where(reached > 0, selected, ABSTAIN).astype(np.int64),
        radius=np.array([0.0, *rule.radii])[reached],
        n_a=n_final,
        p_a_lower=np.array([0.0, *needed])[reached],
    )


def soft_counts(counts: CountTable, *, alpha: float) -> Certificates:
    """Return certificates of the soft smoothed classifier, whose score is the mean probability of each class.

    The lower bound of the selected class's mean is the empirical Bernstein bound of Maurer and Pontil 2009,
    mean - sqrt(2 v ln(2 / alpha) / n) - 7 ln(2 / alpha) / (3 (n - 1)) with v the unbiased variance, as in MACER's
    evaluation; the radius is sigma ndtri of it (Zhai et al. 2020, theorem 1 with the bound 1 - p_a on the runner-up).
    """
    selected = counts.selection.argmax(-1)
    n = counts.drawn
    if counts.probability_sum.shape != counts.estimation.shape:
        raise ValueError(f"the soft certificate needs all samples: probabilities were not kept at n = {counts.n}")
    total = np.take_along_axis(counts.probability_sum, selected[:, None], -1)[:, 0]
    square = np.take_along_axis(counts.probability_square, selected[:, None], -1)[:, 0]
    enough = np.maximum(n, 2)
    mean = total / enough
    variance = np.maximum(square - enough * mean**2, 0.0) / (enough - 1)
    log = np.log(2 / alpha)
    bound = mean - np.sqrt(2 * variance * log / enough) - 7 * log / (3 * (enough - 1))
    bound = rounded_down(np.where(n >= 2, np.clip(bound, 0.0, 1.0), 0.0))
    n_a = np.take_along_axis(counts.estimation, selected[:, None], -1)[:, 0]
    return certificates_from_bounds(selected, n_a, bound, sigma=counts.sigma)


def _predictions(counts: CountTable, *, alpha: float) -> Certificates:
    check_can_predict(counts.n, alpha)
    classes = np.array([predict_counts(row, alpha=alpha) for row in counts.estimation], dtype=np.int64)
    nothing = np.zeros(len(classes))
    return Certificates(prediction=classes, radius=nothing, n_a=counts.estimation.max(-1), p_a_lower=nothing)


@dataclass(frozen=True)
class CertifiedClassifier:
    """The certificates of one classifier (a base model or an ensemble), ordered by example."""

    id: str
    kind: Literal["model", "ensemble", "cascade"]
    sigma: float
    """Of a cascade, that of its first level."""
    example: IntArray
    """[example], position in the test part of the data set."""
    label: IntArray
    """[example]."""
    prediction: IntArray
    """[example], ABSTAIN = -1."""
    radius: FloatArray
    """[example], pixel units, 0 where abstained."""
    n_a: IntArray
    """[example], estimation samples of the selected class; of a cascade, at the level that answers."""
    p_a_lower: FloatArray
    """[example]; NaN of a cascade, whose radius several bounds limit."""
    n: IntArray
    """[example], estimation samples."""
    samples: IntArray
    """[example], samples in all, of selection, pilot and estimation."""
    stopped: BoolArray
    """[example], whether the selection missed the label and nothing more was drawn: wrong, whatever would follow."""
    rule: str
    """Name of the rule that decided how many samples there are."""
    two_sided: float
    """ACR by two-sided certificates, which bound the runner-up too; NaN where the rule may end images early."""
    seconds: float
    """Time of the passes it was certified in, shared with all other classifiers of the pass."""
    noise: TextArray
    """[example], as in a count table; of a cascade, "float" where a level's is."""

    @property
    def correct(self) -> BoolArray:
        """[example], whether the prediction is the label."""
        return np.equal(self.prediction, self.label)

    @property
    def credited_radius(self) -> FloatArray:
        """[example], the radius where the prediction is correct, else 0."""
        return credited_radius(self.radius, self.correct)

    @property
    def saturated(self) -> BoolArray:
        """[example], whether all estimation samples fell on the selected class."""
        return saturated(self.n_a, self.n)

    def on(self, examples: IntArray) -> "CertifiedClassifier":
        """Return the classifier on some of its images, without what is known of all alone: its two-sided ACR."""
        if np.array_equal(examples, self.example):
            return self
        places = np.searchsorted(self.example, examples)
        cut: dict[str, Any] = {
            name: value[places] for name, value in vars(self).items() if isinstance(value, np.ndarray)
        }
        seconds = self.seconds * len(examples) / len(self.example)
        return replace(self, **cut, two_sided=float("nan"), seconds=seconds)


def on_common_images(groups: Sequence[Sequence[CertifiedClassifier]]) -> list[list[CertifiedClassifier]]:
    """Return groups of classifiers on the images that all of them have; as they are where there are none."""
    shared = reduce(np.intersect1d, [one.example for group in groups for one in group])
    return [[one.on(shared) if shared.size else one for one in group] for group in groups]


def certified_classifier(counts: CountTable) -> CertifiedClassifier:
    """Return the certificates of a classifier by its rule, and its ACR by two-sided ones."""
    own = certified_by(counts, derive(counts))
    if counts.rule.name != "fixed":
        return own
    both = derive(counts, kind="two_sided")
    return replace(own, two_sided=average_certified_radius(both.radius, both.prediction == counts.label))


def certified_by(counts: CountTable, own: Certificates) -> CertifiedClassifier:
    """Return a classifier with certificates that were derived from its counts."""
    return CertifiedClassifier(
        id=counts.id,
        kind="model" if counts.kind[0] == "model" else "ensemble",
        sigma=counts.sigma,
        example=counts.example,
        label=counts.label,
        prediction=own.prediction,
        radius=own.radius,
        n_a=own.n_a,
        p_a_lower=own.p_a_lower,
        n=counts.drawn,
        samples=counts.samples,
        stopped=counts.stop == "label",
        rule=counts.rule.name,
        two_sided=float("nan"),
        seconds=float(counts.seconds.sum()),
        noise=counts.noise,
    )
