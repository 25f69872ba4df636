"""Facts about certificates derived offline: float64 formulas, fresh counts of fewer samples, coverage, refusals.

The counts are of made-up sequences of classes, so that the first so many samples of an image are known.
"""

from dataclasses import replace
from functools import cache
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from scipy.stats import beta, binom, chisquare

from rspipe.arrays import FloatArray, IntArray
from rspipe.smoothing.certificates import ABSTAIN, Certificates, certify_counts, predict_counts
from rspipe.smoothing.counts import CountTable
from rspipe.smoothing.derivation import (
    KINDS,
    CertificateKind,
    derive,
    first_samples,
    soft_counts,
)
from rspipe.smoothing.rules import looks, settled
from rspipe.smoothing.sampling import FixedRule, PlannedRule, RadiusGridRule, Rule

PHI = NormalDist()
# The chance that a correct program fails a check made at this level with fresh seeds.
FALSE_ALARM = 1e-6
SIGMA, N0, N, ALPHA = 0.5, 40, 2000, 0.01
GRID = (0.1, 0.25, 0.5, 0.75)
RULES: dict[str, Rule] = {
    "fixed": FixedRule(),
    "planned": PlannedRule(name="planned", pilot=100),
    "radius_grid": RadiusGridRule(name="radius_grid", grid=GRID),
}
EVERY_RULE = pytest.mark.parametrize("rule", RULES)
FREE = pytest.mark.parametrize("rule", ["fixed", "planned"])
IMAGES = 30


def sequences(images: int = IMAGES, n: int = N) -> IntArray:
    """Classes [image, sample] of estimation samples: 0 with probabilities from .35 to .999, else 1 or 2."""
    rng = np.random.default_rng(1)
    p = np.linspace(0.35, 0.999, images)
    drawn = rng.random((images, n))
    return np.where(drawn < p[:, None], 0, np.where(rng.random((images, n)) < 0.6, 1, 2)).astype(np.int64)


def histogram(classes: IntArray) -> IntArray:
    return np.stack([np.bincount(one, minlength=3) for one in classes]).astype(np.int64)


def targets(rule: str, classes: IntArray) -> IntArray:
    """Samples that each image gets: by a plan of some sizes, by looks, or all; the first two are given up."""
    images = np.arange(len(classes))
    if rule == "fixed":
        return np.full(len(classes), N)
    if rule == "planned":
        return np.where(images < 2, 0, np.array([200, 387, 1000, N])[images % 4])
    schedule = looks(N, ALPHA)
    n_a = np.stack([(classes[:, : look.n] == 0).sum(1) for look in schedule], axis=1)
    stops = [settled(n_a[:, : at + 1], schedule, sigma=SIGMA, grid=GRID, futility=1e-3) for at in range(len(schedule))]
    return np.where(images < 2, 0, np.array([look.n for look in schedule])[np.argmax(stops, axis=0)])


def made(rule: str, *, classes: IntArray | None = None, **changes: Any) -> CountTable:
    """Counts as a pass would make them of these sequences; class 0 is selected."""
    return replace(of_sequences(rule) if classes is None else counted(rule, classes), **changes)


@cache
def of_sequences(rule: str) -> CountTable:
    """Counts of `sequences`, which nobody can change."""
    table = counted(rule, sequences())
    for value in vars(table).values():
        if isinstance(value, np.ndarray):
            value.setflags(write=False)
    return table


def counted(rule: str, classes: IntArray) -> CountTable:
    marks = np.array([look.n for look in looks(N, ALPHA)])
    drawn = targets(rule, classes)
    used = np.arange(classes.shape[1]) < drawn[:, None]
    estimation = np.stack([np.bincount(row[keep], minlength=3) for row, keep in zip(classes, used, strict=True)])
    prefix = np.stack([histogram(classes[:, :mark]) for mark in marks], axis=1)
    prefix[drawn[:, None] < marks] = -1
    # Probabilities of .8 for the class of the sample and .1 for the others.
    of_class = 0.1 + 0.7 * np.eye(3)
    pilot = np.tile([40, 12, 8], (len(classes), 1)) * (drawn[:, None] > 0)
    content: dict[str, Any] = {
        "classifier": np.full(len(classes), "c"),
        "kind": np.full(len(classes), "model"),
        "sigma": SIGMA,
        "rule": RULES[rule],
        "n0": N0,
        "n": N,
        "alpha": ALPHA,
        "seed": 11,
        "example": 3 * np.arange(len(classes)),
        "label": np.zeros(len(classes), np.int64),
        "selection": np.tile([30, 6, 4], (len(classes), 1)),
        "pilot": pilot * (rule == "planned"),
        "estimation": estimation,
        "stop": np.where(drawn == 0, "label", np.where(drawn < N, "planned", "")),
        "marks": marks,
        "prefix": prefix,
        "probability_sum": estimation @ of_class,
        "probability_square": estimation @ of_class**2,
        "batch_size": np.full(len(classes), 100),
        "seconds": np.ones(len(classes)),
        "noise": np.full(len(classes), "float"),
    }
    return CountTable(**content)


def lower_bound(k: int, n: int, alpha: float) -> float:
    return float(beta.ppf(alpha, k, n - k + 1)) if k else 0.0


def assert_same(first: Certificates, second: Certificates) -> None:
    for name in ("prediction", "radius", "n_a", "p_a_lower"):
        assert np.array_equal(getattr(first, name), getattr(second, name)), name


def test_samples_are_those_of_selection_pilot_and_estimation() -> None:
    counts = made("planned")
    assert counts.drawn.tolist() == targets("planned", sequences()).tolist()
    assert counts.samples.tolist() == [N0 + (60 + n if n else 0) for n in counts.drawn.tolist()]


# Another alpha.


@FREE
@pytest.mark.parametrize("alpha", [None, 0.01, 1e-6, 0.2])
def test_certify_is_certify_of_the_counts_at_any_alpha(rule: str, alpha: float | None) -> None:
    counts = made(rule)
    certificates = derive(counts, alpha=alpha)
    assert_same(certificates, certify_counts(counts.selection, counts.estimation, sigma=SIGMA, alpha=alpha or ALPHA))
    for image, n in enumerate(counts.drawn.tolist()):
        k = int(counts.estimation[image, 0])
        assert certificates.p_a_lower[image] == pytest.approx(lower_bound(k, max(n, 1), alpha or ALPHA), rel=1e-9)


def grid_oracle(classes: IntArray, n: int, *, alpha: float) -> tuple[int, float]:
    """Prediction and radius of the best bound of the looks up to n samples, rounded down to the grid."""
    reached = [look for look in looks(N, alpha) if look.n <= n]
    bounds = [lower_bound(int((classes[: look.n] == 0).sum()), look.n, look.alpha) for look in reached]
    best = max(bounds, default=0.0)
    if best < 0.5:
        return ABSTAIN, 0.0
    return 0, max((radius for radius in GRID if radius <= SIGMA * PHI.inv_cdf(best)), default=0.0)


@pytest.mark.parametrize("alpha", [None, 0.01, 1e-4, 0.05])
def test_the_radius_grid_is_the_best_of_its_looks_at_any_alpha(alpha: float | None) -> None:
    counts, classes = made("radius_grid"), sequences()
    certificates = derive(counts, alpha=alpha)
    expected = [
        grid_oracle(row, n, alpha=alpha or ALPHA) for row, n in zip(classes, counts.drawn.tolist(), strict=True)
    ]
    assert list(zip(certificates.prediction.tolist(), certificates.radius.tolist(), strict=True)) == expected
    assert set(certificates.radius.tolist()) <= {0.0, *GRID}
    assert len(set(certificates.radius.tolist())) >= 3
    assert certificates.n_a.tolist() == counts.estimation[:, 0].tolist()


def test_a_smaller_alpha_never_gives_a_larger_radius() -> None:
    for rule in RULES:
        counts = made(rule)
        assert (derive(counts, alpha=1e-4).radius <= derive(counts).radius).all()


# Fewer samples.


@EVERY_RULE
@pytest.mark.parametrize("n", [200, 500, 1000, N])
def test_at_a_mark_fewer_samples_are_a_fresh_count_of_so_many(rule: str, n: int) -> None:
    counts, classes = made(rule), sequences()
    chosen = first_samples(counts, n)
    assert chosen.n == n
    for image, drawn in enumerate(counts.drawn.tolist()):
        fresh = np.bincount(classes[image, : min(n, drawn)], minlength=3)
        assert chosen.estimation[image].tolist() == fresh.tolist()
    assert chosen.marks.tolist() == [mark for mark in counts.marks.tolist() if mark <= n]
    assert np.array_equal(chosen.prefix, counts.prefix[:, : len(chosen.marks)])
    # Counts of the others were noted, too, and stay.
    assert np.array_equal(chosen.selection, counts.selection)
    assert np.array_equal(chosen.pilot, counts.pilot)


@pytest.mark.parametrize("n", [200, 1000])
def test_certificates_of_fewer_samples_are_those_of_a_fresh_count(n: int) -> None:
    classes = sequences()
    fresh = certify_counts(np.tile([30, 6, 4], (IMAGES, 1)), histogram(classes[:, :n]), sigma=SIGMA, alpha=1e-3)
    assert_same(derive(made("fixed"), n=n, alpha=1e-3), fresh)


@EVERY_RULE
@pytest.mark.parametrize("n", [1, 7, 199, 201, 387, 400, 999, 1500, 1999])
def test_between_marks_so_many_of_the_samples_of_the_next_mark_are_picked(rule: str, n: int) -> None:
    counts = made(rule)
    chosen = first_samples(counts, n)
    assert chosen.drawn.tolist() == [min(n, drawn) for drawn in counts.drawn.tolist()]
    for image, drawn in enumerate(counts.drawn.tolist()):
        noted = [int(mark) for mark in counts.marks if n <= mark <= drawn]
        parent = counts.prefix[image, counts.marks.tolist().index(noted[0])] if noted else counts.estimation[image]
        assert (chosen.estimation[image] >= 0).all()
        assert (chosen.estimation[image] <= parent).all()
    again = first_samples(made(rule), n)
    assert np.array_equal(again.estimation, chosen.estimation)
    # The new number is noted like the others.
    assert chosen.marks.tolist() == [*(mark for mark in counts.marks.tolist() if mark < n), n]
    whole = counts.drawn >= n
    assert np.array_equal(chosen.prefix[whole, -1], chosen.estimation[whole])
    assert (chosen.prefix[~whole, -1] == -1).all()


def test_a_pick_depends_on_the_image_and_the_seed_alone() -> None:
    counts = made("fixed", classes=np.tile(sequences()[5], (200, 1)))
    chosen = first_samples(counts, 300).estimation
    assert len({tuple(row) for row in chosen.tolist()}) > 50
    turned = replace(
        counts,
        **{name: getattr(counts, name)[::-1] for name in ("example", "estimation", "prefix")},
    )
    assert np.array_equal(first_samples(turned, 300).estimation, chosen[::-1])
    assert not np.array_equal(first_samples(replace(counts, seed=12), 300).estimation, chosen)


def test_a_pick_is_hypergeometric() -> None:
    """Without replacement: the variance is that of n of 500, less than a binomial's by the share that is left."""
    images, n = 4000, 300
    counts = made("fixed", classes=np.tile(sequences()[5], (images, 1)))
    parent = counts.prefix[0, 1]
    assert parent.sum() == 500
    chosen = first_samples(counts, n).estimation
    share = parent / 500
    variance = n * share * (1 - share) * (500 - n) / 499
    assert (abs(chosen.mean(0) - n * share) < 6 * np.sqrt(variance / images)).all()
    # The sample variance of nearly normal numbers has a relative standard error of sqrt(2 / images).
    assert (abs(chosen.var(0, ddof=1) / variance - 1) < 6 * np.sqrt(2 / images)).all()


def test_picks_of_picks_are_counts_of_a_sequence_whatever_the_parent() -> None:
    """Counts of n samples of a class of probability p are binomial, thinned or not."""
    images, n, p = 3000, 60, 0.7
    classes = (np.random.default_rng(3).random((images, N)) >= p).astype(np.int64)
    chosen = first_samples(first_samples(made("fixed", classes=classes), 777), n).estimation[:, 0]
    edges = np.arange(34, 51)
    cells = np.diff(np.concatenate([[0], binom.cdf(edges, n, p), [1]]))
    picked = np.bincount(np.searchsorted(edges, chosen), minlength=len(cells))
    assert chisquare(picked, images * cells).pvalue > FALSE_ALARM


@EVERY_RULE
def test_all_samples_are_all_there_is(rule: str) -> None:
    counts = made(rule)
    assert np.array_equal(first_samples(counts, N).estimation, counts.estimation)
    assert_same(derive(counts, n=N), derive(counts))


@pytest.mark.parametrize("n", [200, 500, 777, 1000])
def test_the_radius_grid_at_fewer_samples_has_the_looks_of_so_many(n: int) -> None:
    counts = made("radius_grid")
    chosen = first_samples(counts, n)
    assert [look.n for look in looks(n, ALPHA)] == chosen.marks.tolist()
    certificates = derive(counts, n=n)
    for image, drawn in enumerate(counts.drawn.tolist()):
        reached = [at for at, mark in enumerate(chosen.marks.tolist()) if mark <= drawn]
        bounds = [
            lower_bound(int(chosen.prefix[image, at, 0]), look.n, look.alpha)
            for at, look in enumerate(looks(n, ALPHA))
            if at in reached
        ]
        assert certificates.p_a_lower[image] == pytest.approx(max(bounds, default=0.0), rel=1e-9)


@pytest.mark.parametrize("n", [None, 200, 300, 1000, 1500])
def test_looks_that_no_image_has_reached_need_not_be_noted(n: int | None) -> None:
    """As the store returns counts where all images were settled early, or given up after the selection."""
    counts = made("radius_grid")
    for most in (0, 2):
        early = np.flatnonzero(counts.drawn <= [0, *counts.marks][most])
        names = ("example", "label", "selection", "pilot", "estimation", "stop")
        kept: dict[str, Any] = {name: getattr(counts, name)[early] for name in names}
        few = replace(counts, **kept, marks=counts.marks[:most], prefix=counts.prefix[early, :most])
        assert len(early) > 1
        assert derive(few, n=n).radius.tolist() == derive(counts, n=n).radius[early].tolist()


# Two sides.

LABEL_STOP = pytest.mark.parametrize("stopped", [False, True])


def label_stopped(counts: CountTable) -> CountTable:
    """The same, of a rule that stops where the selection misses the label: at the first two images."""
    first = np.arange(len(counts.label)) < 2
    return replace(
        counts,
        rule=FixedRule(label_stop=True),
        label=np.where(first, 1, counts.label),
        stop=np.where(first, "label", counts.stop),
        estimation=np.where(first[:, None], 0, counts.estimation),
        prefix=np.where(first[:, None, None], -1, counts.prefix),
        probability_sum=np.where(first[:, None], 0.0, counts.probability_sum),
        probability_square=np.where(first[:, None], 0.0, counts.probability_square),
    )


def credits_of(certificates: Certificates, counts: CountTable) -> FloatArray:
    return np.where(certificates.prediction == counts.label, certificates.radius, 0.0)


@pytest.mark.parametrize("kind", ["certify", "two_sided", "soft"])
def test_a_stop_where_the_selection_misses_the_label_changes_no_credit(kind: CertificateKind) -> None:
    stopped = label_stopped(made("fixed"))
    whole = replace(made("fixed"), label=stopped.label)
    credit = credits_of(derive(stopped, kind=kind), stopped)
    assert np.array_equal(credit, credits_of(derive(whole, kind=kind), whole))
    assert credit.max() > 0


@LABEL_STOP
@pytest.mark.parametrize("n", [None, 200, 777])
def test_two_sides_are_the_formula_of_the_counts(stopped: bool, n: int | None) -> None:
    counts, alpha = label_stopped(made("fixed")) if stopped else made("fixed"), 0.02
    chosen = counts if n is None else first_samples(counts, n)
    certificates = derive(counts, kind="two_sided", alpha=alpha, n=n)
    certified = []
    for image, total in enumerate(chosen.drawn.tolist()):
        if total == 0:
            assert (certificates.prediction[image], certificates.radius[image]) == (ABSTAIN, 0)
            continue
        n_a, *others = chosen.estimation[image].tolist()
        lower, n_b = lower_bound(n_a, total, 0.9 * alpha), max(others)
        upper = min(beta.isf(0.1 * alpha, n_b + 1, total - n_b), 1 - lower)
        expected = SIGMA / 2 * (PHI.inv_cdf(lower) - PHI.inv_cdf(upper)) if lower > upper else 0.0
        assert certificates.prediction[image] == (0 if lower > upper else ABSTAIN)
        assert certificates.radius[image] == pytest.approx(expected, rel=1e-9, abs=1e-10)
        if lower > upper:
            certified.append(lower)
    assert max(certified) > 0.9
    if n is None and not stopped:
        # Where one side abstains, two may certify.
        assert min(certified) < 0.5


# Soft.


def soft(probabilities: FloatArray, **changes: Any) -> CountTable:
    """Counts with sums of given probabilities [image, sample, class]."""
    images, n, _ = probabilities.shape
    content: dict[str, Any] = {
        "estimation": histogram(probabilities.argmax(-1)),
        "selection": np.tile([30, 6, 4], (images, 1)),
        "probability_sum": probabilities.sum(1),
        "probability_square": (probabilities**2).sum(1),
        "n": n,
    }
    return replace(made("fixed", classes=np.zeros((images, N), np.int64)), **{**content, **changes})


def probabilities_of(images: int, n: int, *, mean: float, seed: int = 0) -> FloatArray:
    """Probabilities of three classes, the first near 1 or near 0 with the given mean."""
    rng = np.random.default_rng(seed)
    first = np.where(rng.random((images, n)) < mean, rng.beta(40, 1, (images, n)), rng.beta(1, 40, (images, n)))
    return np.stack([first, 0.7 * (1 - first), 0.3 * (1 - first)], axis=-1)


@pytest.mark.parametrize("alpha", [0.001, 0.1])
@pytest.mark.parametrize("mean", [0.3, 0.6, 0.95])
def test_the_soft_bound_is_the_empirical_bernstein_bound(mean: float, alpha: float) -> None:
    images, n = 5, 400
    drawn = probabilities_of(images, n, mean=mean)
    certificates = derive(soft(drawn), kind="soft", alpha=alpha)
    log = np.log(2 / alpha)
    for image in range(images):
        first = drawn[image, :, 0]
        bound = first.mean() - np.sqrt(2 * first.var(ddof=1) * log / n) - 7 * log / (3 * (n - 1))
        # The variance is a difference of sums of n numbers up to 1.
        assert certificates.p_a_lower[image] == pytest.approx(max(bound, 0.0), abs=1e-9)
        assert certificates.prediction[image] == (0 if bound >= 0.5 else ABSTAIN)
        assert certificates.radius[image] == pytest.approx(SIGMA * PHI.inv_cdf(bound) if bound > 0.5 else 0.0, abs=1e-8)
        assert certificates.n_a[image] == (drawn[image].argmax(-1) == 0).sum()


@pytest.mark.parametrize("mean", [0.5, 0.8, 0.99])
@pytest.mark.parametrize("n", [2, 20, 200, 1000])
def test_the_soft_bound_exceeds_the_truth_at_most_as_often_as_alpha_says(mean: float, n: int) -> None:
    images, alpha = 1000, 0.2
    drawn = probabilities_of(images, n, mean=mean)
    truth = mean * 40 / 41 + (1 - mean) / 41
    certificates = derive(soft(drawn), kind="soft", alpha=alpha)
    assert (certificates.p_a_lower > truth).sum() <= binom.isf(FALSE_ALARM, images, alpha)
    if n == 1000:
        # Six standard errors and the bound's own three, and the term of second order.
        below = 9 * np.sqrt(0.25 / n) + 7 * np.log(2 / alpha) / (3 * (n - 1))
        assert (certificates.p_a_lower > truth - below).all()


def test_certain_probabilities_have_no_variance() -> None:
    drawn = np.zeros((1, 500, 3))
    drawn[..., 0] = 1.0
    certificates = derive(soft(drawn), kind="soft", alpha=0.01)
    assert certificates.p_a_lower[0] == pytest.approx(1 - 7 * np.log(200) / (3 * 499), rel=1.2e-11)


@pytest.mark.parametrize("n", [0, 1])
def test_the_soft_bound_of_fewer_than_two_samples_is_zero(n: int) -> None:
    drawn = np.ones((1, n, 3)) / 3
    certificates = soft_counts(soft(drawn, estimation=np.array([[n, 0, 0]]), n=10), alpha=0.01)
    assert (certificates.prediction[0], certificates.radius[0], certificates.p_a_lower[0]) == (ABSTAIN, 0, 0)


# PREDICT.


@pytest.mark.parametrize("n", [None, 200, 300])
@pytest.mark.parametrize("alpha", [0.001, 0.3])
def test_predictions_are_those_of_predict(n: int | None, alpha: float) -> None:
    counts = made("fixed")
    chosen = counts if n is None else first_samples(counts, n)
    certificates = derive(counts, kind="predict", alpha=alpha, n=n)
    expected = [predict_counts(row, alpha=alpha) for row in chosen.estimation]
    assert certificates.prediction.tolist() == expected
    assert {0, ABSTAIN} <= set(expected)
    assert not certificates.radius.any()
    assert certificates.n_a.tolist() == chosen.estimation.max(1).tolist()


def test_predict_does_not_need_so_many_samples_as_certify() -> None:
    assert derive(made("fixed"), kind="predict", n=12).prediction[-1] == 0


# Refusals.


@EVERY_RULE
@pytest.mark.parametrize("n", [-1, 0, N + 1, 100_000])
def test_more_samples_than_there_are_cannot_be_had(rule: str, n: int) -> None:
    for kind in KINDS:
        with pytest.raises(ValueError, match=rf"n must lie in \[1, {N}\], the samples there are; got {n}"):
            derive(made(rule), kind=kind, n=n)


@pytest.mark.parametrize("kind", ["certify", "two_sided"])
def test_too_few_samples_for_alpha_are_refused_with_the_number_that_is_enough(kind: CertificateKind) -> None:
    with pytest.raises(ValueError, match=r"n = 9 can never certify at alpha = 0\.001; use n >= 10"):
        derive(made("fixed"), kind=kind, n=9, alpha=0.001)
    derive(made("fixed"), kind=kind, n=10, alpha=0.001)


@EVERY_RULE
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_an_alpha_that_is_no_probability_is_refused(rule: str, kind: CertificateKind, alpha: float) -> None:
    with pytest.raises(ValueError, match=r"alpha must lie in \(0, 1\)"):
        derive(made(rule), kind=kind, alpha=alpha)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("two_sided", "radius_grid stops by its estimation samples, which the two-sided certificate may not use again"),
        ("soft", "rule radius_grid stops by its estimation samples, which the soft certificate may not use again"),
        ("predict", "rule radius_grid stops by its estimation samples, which PREDICT may not use again"),
    ],
)
def test_what_the_looks_at_the_estimation_samples_make_invalid_is_refused(kind: CertificateKind, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        derive(made("radius_grid"), kind=kind)


@pytest.mark.parametrize("kind", ["two_sided", "soft", "predict"])
def test_other_certificates_are_refused_where_a_rule_ended_images_early(kind: CertificateKind) -> None:
    """Their numbers would be those of the plan: ACR .02 where n samples prove .31, accuracy .8 where all are right."""
    counts = made("planned")
    with pytest.raises(ValueError, match=rf"needs all {N:,} samples .* \(.*21 by plan\): c; certify with rule fixed"):
        derive(counts, kind=kind)
    futile = replace(counts, stop=np.where(counts.stop == "label", "futility", ""))
    with pytest.raises(ValueError, match=r"\(2 as futile\)"):
        derive(replace(futile, n=200), kind=kind)


def test_predict_needs_the_samples_of_images_that_missed_their_label() -> None:
    with pytest.raises(
        ValueError, match=r"2 after a selection that missed the label.*rule fixed and label_stop = false"
    ):
        derive(label_stopped(made("fixed")), kind="predict")


def test_a_soft_certificate_of_fewer_samples_is_refused() -> None:
    """Of fewer the sums would be too large, and the bound 1."""
    message = "the soft certificate needs all samples: probabilities were not kept at n = 500"
    with pytest.raises(ValueError, match=message):
        derive(made("fixed"), kind="soft", n=500)
    with pytest.raises(ValueError, match=message):
        derive(first_samples(made("fixed"), 500), kind="soft")
    assert_same(derive(made("fixed"), kind="soft", n=N), derive(made("fixed"), kind="soft"))
