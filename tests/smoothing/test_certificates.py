"""Facts about confidence bounds, radii, CERTIFY and PREDICT, checked against exact binomial and Gaussian formulas.

The base classifier of most tests is linear: with logits (-s, s), s = w·x + b, its smoothed probability of the class of
x is Phi(d / sigma), d = |w·x + b| / ||w||, and the smoothed classifier's true robust radius is d.
"""

from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from math import comb
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import gammaln
from scipy.stats import beta, binom, binomtest
from torch import Tensor, nn

from rspipe.errors import ModelError
from rspipe.networks.deployment import Deployed, deploy
from rspipe.smoothing.certificates import (
    ABSTAIN,
    certificates_from_bounds,
    certified_radius,
    certify_counts,
    clopper_pearson_lower,
    clopper_pearson_upper,
    least_to_certify,
    least_to_predict,
    predict_counts,
    radius_cap,
    two_sided_counts,
)
from rspipe.smoothing.certify import Certificate, certify, predict
from rspipe.smoothing.decisions import decide

PHI = NormalDist()
# Two-sided: the chance that a correct program fails a check made at this level with fresh seeds.
FALSE_ALARM = 1e-6
# What bounds give up for being on the safe side, 1e-11, and what they had not been given.
MARGIN = 1.2e-11

exact = settings(deadline=None, derandomize=True)


def linear(weight: Tensor, offset: float) -> Callable[[Tensor], Tensor]:
    """Two classes by the sign of w·x + b."""

    def logits(batch: Tensor) -> Tensor:
        score = batch.flatten(1) @ weight + offset
        return torch.stack([-score, score], dim=1)

    return logits


def at_distance(distance: float) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """A linear classifier and a point of class 1 at that distance from its decision boundary."""
    weight = torch.tensor([3.0, -4.0])
    return linear(weight, 5.0 * distance), torch.zeros(2)


def deployed_at(distance: float) -> tuple[Deployed, Tensor]:
    """The same, whose samples are tried beside others once, and not at every call."""
    classifier, x = at_distance(distance)
    return deploy(classifier, precision="float32"), x


def acceptable(n: int, p: float) -> tuple[int, int]:
    """Counts between which a Binomial(n, p) lies but for FALSE_ALARM."""
    low, high = binom.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], n, p)
    return int(low), int(high)


def counts_of(certificate: Certificate) -> list[list[int]]:
    return [certificate.selection.tolist(), certificate.estimation.tolist()]


def constant(*logits: float) -> Callable[[Tensor], Tensor]:
    return lambda batch: torch.tensor(logits).repeat(len(batch), 1)


@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.5])
@pytest.mark.parametrize("n", [1, 2, 17, 100])
def test_the_bounds_are_the_one_sided_exact_intervals_of_scipy(n: int, alpha: float) -> None:
    for k in range(n + 1):
        low = binomtest(k, n, alternative="greater").proportion_ci(1 - alpha, method="exact").low
        high = binomtest(k, n, alternative="less").proportion_ci(1 - alpha, method="exact").high
        # binomtest finds its ends by bisection to 1e-9 or so.
        assert clopper_pearson_lower(k, n, alpha=alpha) == pytest.approx(low, abs=1e-8)
        assert clopper_pearson_upper(k, n, alpha=alpha) == pytest.approx(high, abs=1e-8)


@exact
@given(n=st.integers(1, 200_000), share=st.floats(0, 1), alpha=st.floats(1e-6, 0.999))
def test_at_the_lower_bound_so_many_successes_have_probability_alpha(n: int, share: float, alpha: float) -> None:
    k = max(1, round(share * n))
    assert binom.sf(k - 1, n, clopper_pearson_lower(k, n, alpha=alpha)) == pytest.approx(alpha, rel=1e-6)


@exact
@given(n=st.integers(1, 5000), share=st.floats(0, 1), alpha=st.floats(1e-6, 0.999))
def test_the_bounds_are_beta_quantiles(n: int, share: float, alpha: float) -> None:
    k = round(share * n)
    if k > 0:
        assert clopper_pearson_lower(k, n, alpha=alpha) == pytest.approx(beta.ppf(alpha, k, n - k + 1), rel=1e-9)
    if k < n:
        assert clopper_pearson_upper(k, n, alpha=alpha) == pytest.approx(
            beta.isf(alpha, k + 1, n - k), rel=1e-9, abs=MARGIN
        )


@pytest.mark.parametrize("n", [1, 10, 100_000])
@pytest.mark.parametrize("alpha", [0.001, 0.05])
def test_without_a_failure_the_lower_bound_is_the_nth_root_of_alpha(n: int, alpha: float) -> None:
    assert clopper_pearson_lower(n, n, alpha=alpha) == pytest.approx(alpha ** (1 / n), rel=MARGIN)
    assert clopper_pearson_upper(0, n, alpha=alpha) == pytest.approx(1 - alpha ** (1 / n), rel=1e-9, abs=MARGIN)


def test_without_a_success_the_lower_bound_is_zero_and_without_a_failure_the_upper_bound_is_one() -> None:
    assert clopper_pearson_lower(0, 10, alpha=0.05) == 0
    assert clopper_pearson_upper(10, 10, alpha=0.05) == 1


@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.3])
@pytest.mark.parametrize("n", [1, 10, 100, 1000])
def test_the_exact_probability_that_a_bound_misses_the_truth_is_at_most_alpha(n: int, alpha: float) -> None:
    k = np.arange(n + 1)
    lower, upper = clopper_pearson_lower(k, n, alpha=alpha), clopper_pearson_upper(k, n, alpha=alpha)
    # Every value where a bound's miss probability jumps is next to one of the bounds themselves.
    jumps = np.concatenate([lower, upper])
    grid = np.concatenate([np.linspace(1e-4, 1 - 1e-4, 300), jumps - 1e-9, jumps + 1e-9])
    truth = np.clip(grid, 1e-12, 1 - 1e-12)[:, None]
    # A tenth of the time of binom.pmf.
    log_choose = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    pmf = np.exp(log_choose + k * np.log(truth) + (n - k) * np.log1p(-truth))
    assert (pmf * (lower > truth)).sum(1).max() <= alpha * (1 + 1e-6)
    assert (pmf * (upper < truth)).sum(1).max() <= alpha * (1 + 1e-6)
    # One-sided means that alpha is spent whole: next to a jump the miss probability is alpha itself.
    assert (pmf * (lower > truth)).sum(1).max() >= alpha * (1 - 1e-3)


def test_bounds_broadcast_over_arrays_of_any_shape() -> None:
    k, n = np.array([[0, 3, 9], [1, 5, 10]]), np.array([10, 20, 30])
    bounds = clopper_pearson_lower(k, n, alpha=0.1)
    assert bounds.shape == k.shape
    expected = [[clopper_pearson_lower(int(k[i, j]), int(n[j]), alpha=0.1) for j in range(3)] for i in range(2)]
    assert np.array_equal(bounds, expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint32, np.uint64])
def test_narrow_integers_give_the_same_bounds(dtype: type[np.integer[Any]]) -> None:
    n = min(int(np.iinfo(dtype).max), 255)
    for k in (0, 1, n):
        assert clopper_pearson_lower(dtype(k), dtype(n), alpha=0.1) == clopper_pearson_lower(k, n, alpha=0.1)
        assert clopper_pearson_upper(dtype(k), dtype(n), alpha=0.1) == clopper_pearson_upper(k, n, alpha=0.1)


@pytest.mark.parametrize("bound", [clopper_pearson_lower, clopper_pearson_upper])
@pytest.mark.parametrize(
    ("successes", "n", "message"),
    [
        (11, 10, r"successes must lie in \[0, n\], got 11"),
        (-1, 10, r"successes must lie in \[0, n\], got -1"),
        ([3, 12], 10, r"got 12"),
        (0, 0, "n must be at least 1, got 0"),
        (5.0, 10, "whole numbers"),
        (float("nan"), 10, "whole numbers"),
        (5, 10.0, "whole numbers"),
        (True, 10, "whole numbers"),
    ],
)
def test_impossible_counts_are_refused(bound: Callable[..., Any], successes: Any, n: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bound(successes, n, alpha=0.05)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, 1.5, float("nan")])
@pytest.mark.parametrize("bound", [clopper_pearson_lower, clopper_pearson_upper])
def test_an_alpha_that_is_no_probability_is_refused(bound: Callable[..., Any], alpha: float) -> None:
    with pytest.raises(ValueError, match=r"alpha must lie in \(0, 1\)"):
        bound(5, 10, alpha=alpha)


@exact
@given(p=st.floats(0.5, 1, exclude_min=True, exclude_max=True), sigma=st.floats(0.01, 10))
def test_the_radius_is_sigma_times_the_gaussian_quantile(p: float, sigma: float) -> None:
    assert certified_radius(p, sigma=sigma) == pytest.approx(sigma * PHI.inv_cdf(p), rel=1e-9, abs=1e-15)


def test_the_radius_is_zero_up_to_one_half() -> None:
    assert np.array_equal(certified_radius([0.0, 0.3, 0.5], sigma=0.5), np.zeros(3))


def test_the_radius_at_probability_one_is_unbounded() -> None:
    assert certified_radius(1.0, sigma=0.5) == np.inf


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf")])
def test_a_noise_level_that_is_not_positive_and_finite_is_refused(sigma: float) -> None:
    with pytest.raises(ValueError, match="sigma must be positive"):
        certified_radius(0.9, sigma=sigma)


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_a_bound_that_is_no_probability_has_no_radius(p: float) -> None:
    with pytest.raises(ValueError, match=r"p_a_lower must lie in \[0, 1\]"):
        certified_radius([0.9, p], sigma=0.5)


def test_the_class_is_the_largest_selection_count_and_its_estimation_count_bounds_it() -> None:
    result = certify_counts(np.array([10, 70, 20]), np.array([100, 800, 100]), sigma=0.5, alpha=0.01)
    assert (result.prediction, result.n_a) == (1, 800)
    expected = binomtest(800, 1000, alternative="greater").proportion_ci(0.99, method="exact").low
    assert result.p_a_lower == pytest.approx(expected, abs=1e-8)
    assert result.radius == pytest.approx(0.5 * PHI.inv_cdf(expected), abs=1e-7)


def test_the_class_is_never_chosen_again_from_the_estimation_counts() -> None:
    result = certify_counts(np.array([51, 49]), np.array([10, 990]), sigma=0.5, alpha=0.01)
    assert (result.prediction, result.radius, result.n_a) == (ABSTAIN, 0, 10)


def test_a_tied_selection_takes_the_lowest_class() -> None:
    result = certify_counts(np.array([0, 50, 50]), np.array([0, 1000, 0]), sigma=0.5, alpha=0.01)
    assert (result.prediction, result.n_a) == (1, 1000)


@pytest.mark.parametrize("alpha", [0.001, 0.05])
def test_it_abstains_exactly_where_the_bound_lies_below_one_half(alpha: float) -> None:
    n = 200
    k = np.arange(n + 1)
    result = certify_counts(np.tile([100, 0], (n + 1, 1)), np.stack([k, n - k], 1), sigma=1.0, alpha=alpha)
    # The bound reaches 1/2 when k or more heads of a fair coin have probability at most alpha.
    fair_tail = np.array([float(Fraction(sum(comb(n, j) for j in range(i, n + 1)), 2**n)) for i in k])
    assert np.array_equal(result.prediction == ABSTAIN, fair_tail > alpha)
    assert np.array_equal(result.radius > 0, fair_tail <= alpha)


def test_an_exact_bound_of_one_half_is_no_claim() -> None:
    # The exact bound of 1 success in 1 trial is alpha itself.
    result = certify_counts(np.array([1, 0]), np.array([1, 0]), sigma=1.0, alpha=0.5)
    assert (result.prediction, result.radius, result.p_a_lower) == (ABSTAIN, 0, 0.5 * (1 - 1e-11))


def test_many_examples_are_certified_as_each_alone() -> None:
    rng = np.random.default_rng(0)
    selection = rng.multinomial(100, [0.6, 0.3, 0.1], size=(4, 3))
    estimation = rng.multinomial(500, [0.7, 0.2, 0.1], size=(4, 3))
    together = certify_counts(selection, estimation, sigma=0.25, alpha=0.01)
    for i in np.ndindex(4, 3):
        alone = certify_counts(selection[i], estimation[i], sigma=0.25, alpha=0.01)
        for name in ("prediction", "radius", "n_a", "p_a_lower"):
            assert getattr(together, name)[i] == getattr(alone, name)


def test_where_nothing_was_estimated_nothing_is_certified() -> None:
    selection, nothing = np.array([[9, 1], [1, 9]]), np.zeros((2, 2), np.int64)
    for result in (
        certify_counts(selection, nothing, sigma=0.5, alpha=0.4),
        two_sided_counts(selection, nothing, sigma=0.5, alpha=0.4),
    ):
        assert result.prediction.tolist() == [ABSTAIN, ABSTAIN]
        assert result.radius.tolist() == result.n_a.tolist() == result.p_a_lower.tolist() == [0, 0]


def test_a_bound_of_one_half_or_more_is_a_claim() -> None:
    bound = np.array([0.0, np.nextafter(0.5, 0), 0.5, 0.75])
    result = certificates_from_bounds(np.array([3, 2, 1, 0]), np.array([1, 2, 3, 4]), bound, sigma=2.0)
    assert result.prediction.tolist() == [ABSTAIN, ABSTAIN, 1, 0]
    assert result.radius.tolist() == [0, 0, 0, pytest.approx(2 * PHI.inv_cdf(0.75), rel=1e-12)]
    assert np.array_equal(result.p_a_lower, bound)
    assert result.n_a.tolist() == [1, 2, 3, 4]


def two_sided_oracle(selection: list[int], estimation: list[int], *, sigma: float, alpha: float) -> tuple[int, float]:
    """Prediction and radius by the formula, one example at a time."""
    chosen, n = selection.index(max(selection)), sum(estimation)
    n_a, n_b = estimation[chosen], max(count for c, count in enumerate(estimation) if c != chosen)
    lower = beta.ppf(0.9 * alpha, n_a, n - n_a + 1) if n_a else 0.0
    upper = min(beta.isf(0.1 * alpha, n_b + 1, n - n_b) if n_b < n else 1.0, 1 - lower)
    if lower <= upper:
        return ABSTAIN, 0.0
    return chosen, sigma / 2 * (PHI.inv_cdf(lower) - PHI.inv_cdf(upper))


@pytest.mark.parametrize(
    ("selection", "estimation"),
    [
        ([70, 20, 10], [800, 150, 50]),
        ([70, 20, 10], [600, 200, 200]),
        # The top class has less than one half.
        ([40, 20, 20, 20], [450, 200, 180, 170]),
        ([0, 0, 100], [0, 0, 1000]),
        ([0, 100, 0], [1, 999, 0]),
        ([60, 40, 0], [480, 500, 20]),
        ([60, 40, 0], [0, 1000, 0]),
        ([60, 40], [700, 300]),
        ([50, 50, 0], [500, 450, 50]),
    ],
)
@pytest.mark.parametrize("alpha", [0.001, 0.1])
def test_the_two_sided_certificate_is_its_formula(selection: list[int], estimation: list[int], alpha: float) -> None:
    result = two_sided_counts(np.array(selection), np.array(estimation), sigma=0.5, alpha=alpha)
    prediction, radius = two_sided_oracle(selection, estimation, sigma=0.5, alpha=alpha)
    assert (result.prediction, result.n_a) == (prediction, estimation[selection.index(max(selection))])
    assert result.radius == pytest.approx(radius, rel=1e-9)


def test_a_class_below_one_half_can_be_certified_by_both_sides() -> None:
    selection, estimation = np.array([40, 20, 20, 20]), np.array([4500, 2000, 1800, 1700])
    assert certify_counts(selection, estimation, sigma=0.5, alpha=0.001).prediction == ABSTAIN
    result = two_sided_counts(selection, estimation, sigma=0.5, alpha=0.001)
    assert (result.prediction, result.p_a_lower < 0.5) == (0, True)
    # Less than what the shares themselves would certify.
    assert 0 < result.radius < 0.5 / 2 * (PHI.inv_cdf(0.45) - PHI.inv_cdf(0.2))


@exact
@given(share=st.floats(0, 1), n=st.integers(1, 10_000))
def test_of_two_classes_both_sides_are_one_sided_at_nine_tenths_of_alpha(share: float, n: int) -> None:
    k = round(share * n)
    selection, estimation = np.array([1, 0]), np.array([k, n - k])
    both = two_sided_counts(selection, estimation, sigma=0.5, alpha=0.01)
    one = certify_counts(selection, estimation, sigma=0.5, alpha=0.009)
    # The quantile's error at 1 - p, which is rounded to 1e-16, for p up to 1 - 7e-4 / n.
    assert both.radius == pytest.approx(one.radius, rel=1e-7, abs=1e-12)


def test_many_examples_have_the_two_sided_certificates_of_each_alone_and_counts_stay() -> None:
    rng = np.random.default_rng(0)
    selection = rng.multinomial(100, [0.5, 0.3, 0.2], size=(4, 3))
    estimation = rng.multinomial(500, [0.5, 0.3, 0.2], size=(4, 3))
    before = selection.copy(), estimation.copy()
    together = two_sided_counts(selection, estimation, sigma=0.25, alpha=0.01)
    for i in np.ndindex(4, 3):
        alone = two_sided_counts(selection[i], estimation[i], sigma=0.25, alpha=0.01)
        for name in ("prediction", "radius", "n_a", "p_a_lower"):
            assert getattr(together, name)[i] == getattr(alone, name)
    assert np.array_equal(selection, before[0])
    assert np.array_equal(estimation, before[1])


@pytest.mark.parametrize(
    "p",
    [(0.8, 0.1, 0.1), (0.6, 0.4), (0.45, 0.3, 0.25), (0.4, 0.3, 0.3), (0.4, 0.4, 0.2), (0.2,) * 5],
    ids=str,
)
def test_two_sided_certificates_are_false_at_most_as_often_as_alpha_says(p: tuple[float, ...]) -> None:
    """Also where runners-up tie, of which the largest count is taken, and where the selection takes another class."""
    rng, alpha, runs, sigma = np.random.default_rng(0), 0.1, 20_000, 0.5
    selection, estimation = rng.multinomial(20, p, size=runs), rng.multinomial(400, p, size=runs)
    result = two_sided_counts(selection, estimation, sigma=sigma, alpha=alpha)
    truth = np.array(
        [sigma / 2 * (PHI.inv_cdf(p[c]) - PHI.inv_cdf(max(p[:c] + p[c + 1 :]))) for c in selection.argmax(1)]
    )
    false = (result.prediction != ABSTAIN) & (result.radius > truth)
    assert false.sum() <= binom.isf(FALSE_ALARM, runs, alpha)


@pytest.mark.parametrize("n", [10, 1000, 100_000])
def test_no_number_of_successes_certifies_more_than_the_cap(n: int) -> None:
    cap = radius_cap(sigma=0.25, n=n, alpha=0.001)
    assert cap == pytest.approx(0.25 * PHI.inv_cdf(max(0.001 ** (1 / n), 0.5)), abs=0.25 * 4e-8)
    k = np.arange(max(n - 1000, 0), n + 1)
    result = certify_counts(np.tile([1, 0], (k.size, 1)), np.stack([k, n - k], 1), sigma=0.25, alpha=0.001)
    assert result.radius.max() == cap


def test_the_radius_is_capped_by_the_number_of_samples() -> None:
    result = certify_counts(np.array([100, 0]), np.array([100_000, 0]), sigma=0.25, alpha=0.001)
    assert result.radius == pytest.approx(0.25 * PHI.inv_cdf(0.001 ** (1 / 100_000)), abs=0.25 * 4e-8)


@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.5])
def test_predict_compares_the_two_largest_counts_by_the_exact_two_sided_binomial_test(alpha: float) -> None:
    for second in range(12):
        for first in range(second, 25):
            m = max(first + second, 1)
            tail = Fraction(sum(comb(m, j) for j in range(first, m + 1)), 2**m)
            expected = 1 if min(2 * tail, 1) <= alpha and first > second else ABSTAIN
            if first > 0:
                assert predict_counts(np.array([second, first, 0]), alpha=alpha) == expected, (first, second)


def test_predict_abstains_on_a_tie_whatever_alpha() -> None:
    assert predict_counts(np.array([500, 500, 0]), alpha=0.999) == ABSTAIN


def test_predict_ignores_classes_beyond_the_two_largest() -> None:
    assert predict_counts(np.array([40, 3, 100]), alpha=0.001) == predict_counts(np.array([40, 40, 100]), alpha=0.001)


@pytest.mark.parametrize("alpha", [0.01, 0.2])
@pytest.mark.parametrize("n", [5, 50])
def test_the_exact_probability_that_predict_returns_the_wrong_class_is_at_most_alpha(n: int, alpha: float) -> None:
    returned = np.array([predict_counts(np.array([k, n - k]), alpha=alpha) for k in range(n + 1)])
    for p in np.linspace(0.501, 0.999, 50):
        assert binom.pmf(np.arange(n + 1), n, p)[returned == 1].sum() <= alpha


@pytest.mark.parametrize("alpha", [0.0, 1.0, float("nan")])
def test_predict_refuses_an_alpha_that_is_no_probability(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha must lie in"):
        predict_counts(np.array([1, 9]), alpha=alpha)


@pytest.mark.parametrize("sigma", [0.25, 1.0])
@pytest.mark.parametrize("scale", [0.1, 10.0])
def test_the_top_class_is_counted_as_often_as_its_closed_form_probability(sigma: float, scale: float) -> None:
    distance, n = 0.3, 20_000
    classifier, x = at_distance(distance)
    result = certify(lambda batch: scale * classifier(batch), x, sigma=sigma, n=n)
    low, high = acceptable(n, PHI.cdf(distance / sigma))
    assert (result.prediction, int(result.estimation.sum())) == (1, n)
    assert low <= result.n_a <= high


def test_the_certified_radius_comes_close_to_the_true_distance_from_below() -> None:
    distance, sigma, n = 0.4, 0.5, 50_000
    classifier, x = at_distance(distance)
    radii = [certify(classifier, x, sigma=sigma, n=n, example=e, block_size=10_000).radius for e in range(5)]
    p = PHI.cdf(distance / sigma)
    # The least count within the acceptance region, and the bound computed from it.
    lowest = beta.ppf(0.001, acceptable(n, p)[0], n - acceptable(n, p)[0] + 1)
    assert min(radii) >= sigma * PHI.inv_cdf(lowest)
    assert max(radii) <= distance


@pytest.mark.parametrize(("distance", "sigma"), [(0.0, 0.5), (0.1, 0.5), (0.5, 0.5)])
def test_certificates_are_false_at_most_as_often_as_alpha_says(distance: float, sigma: float) -> None:
    """At distance 0 both classes are equal: there a class chosen from the estimation samples fails twice as often."""
    classifier, x = deployed_at(distance)
    alpha, runs = 0.1, 800
    false = 0
    for seed in range(runs):
        result = certify(classifier, x, sigma=sigma, n0=10, n=100, alpha=alpha, seed=seed)
        wrong = result.prediction == 0 and distance > 0
        false += wrong or result.radius > distance + 1e-6
    assert false <= binom.isf(FALSE_ALARM, runs, alpha)


def test_noise_of_many_examples_is_as_good_as_of_many_seeds() -> None:
    classifier, x = deployed_at(0.1)
    n, examples = 50, 500
    n_a = [int(certify(classifier, x, sigma=0.5, n0=1, n=n, example=e).estimation[1]) for e in range(examples)]
    low, high = acceptable(n * examples, PHI.cdf(0.2))
    assert low <= sum(n_a) <= high


def test_it_abstains_on_the_decision_boundary() -> None:
    classifier, x = at_distance(0.0)
    result = certify(classifier, x, sigma=0.5, n=2000)
    assert (result.prediction, result.radius) == (ABSTAIN, 0)


@pytest.mark.parametrize("shape", [(1,), (12,), (3, 2, 2), (1, 12, 1, 1)])
def test_inputs_may_have_any_shape(shape: tuple[int, ...]) -> None:
    x = torch.linspace(0, 1, int(np.prod(shape))).reshape(shape)
    weight = torch.ones(x.numel())
    distance = 0.3
    offset = distance * weight.norm().item() - x.sum().item()
    n = 5000
    low, high = acceptable(n, PHI.cdf(distance / 0.5))
    assert low <= certify(linear(weight, offset), x, sigma=0.5, n=n).n_a <= high


def test_the_certificate_says_all_it_was_made_with() -> None:
    classifier, x = at_distance(0.3)
    result = certify(classifier, x, sigma=0.5, n0=50, n=700, alpha=0.01)
    assert (result.n0, result.n, result.sigma, result.alpha) == (50, 700, 0.5, 0.01)
    assert (int(result.selection.sum()), int(result.estimation.sum())) == (50, 700)
    assert result.n_a == result.estimation[1]
    assert result.p_a_lower == pytest.approx(beta.ppf(0.01, result.n_a, 700 - result.n_a + 1), rel=MARGIN)
    assert result.radius == pytest.approx(0.5 * PHI.inv_cdf(result.p_a_lower), rel=1e-9)


def test_the_same_seed_gives_the_same_certificate_whatever_the_global_generators_hold() -> None:
    classifier, x = at_distance(0.3)
    first = certify(classifier, x, sigma=0.5, n=500, seed=3)
    torch.manual_seed(1)
    again = certify(classifier, x, sigma=0.5, n=500, seed=3)
    assert counts_of(first) == counts_of(again)


def test_certifying_leaves_the_global_generator_alone() -> None:
    classifier, x = at_distance(0.3)
    before = torch.get_rng_state()
    certify(classifier, x, sigma=0.5, n=100)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("other", [{"seed": 1}, {"example": 1}])
def test_another_seed_or_example_gives_other_noise(other: dict[str, int]) -> None:
    classifier, x = at_distance(0.05)
    first, second = certify(classifier, x, sigma=0.5, n=5000), certify(classifier, x, sigma=0.5, n=5000, **other)
    assert counts_of(first) != counts_of(second)


@pytest.mark.parametrize("batch_size", [1, 20, 50, 100])
def test_certificates_do_not_depend_on_how_many_samples_run_at_once(batch_size: int) -> None:
    classifier, x = at_distance(0.1)
    call: dict[str, Any] = {"sigma": 0.5, "n": 250, "block_size": 100}
    assert counts_of(certify(classifier, x, batch_size=batch_size, **call)) == counts_of(certify(classifier, x, **call))
    assert predict(classifier, x, batch_size=batch_size, **call) == predict(classifier, x, **call)


def seen_by(n0: int, n: int, block_size: int) -> list[Tensor]:
    """The batches that CERTIFY gives a base classifier."""
    classifier, x = at_distance(0.3)
    seen: list[Tensor] = []

    def recording(batch: Tensor) -> Tensor:
        seen.append(batch.clone())
        return classifier(batch)

    certify(recording, x, sigma=0.5, n0=n0, n=n, block_size=block_size)
    # Of a few samples it is asked whether they are apart.
    return [batch for batch in seen if len(batch) > 8]


@pytest.mark.parametrize("call", [certify, predict, partial(decide, radius=0.1)], ids=["certify", "predict", "decide"])
def test_a_function_around_a_network_in_training_mode_is_refused(call: Callable[..., object]) -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).train()
    x = torch.tensor([0.2, 0.4])
    with pytest.raises(ModelError, match="depends on the samples beside it"):
        call(lambda noisy: network(noisy - 0.5), x, sigma=0.5)
    network.eval()
    call(lambda noisy: network(noisy - 0.5), x, sigma=0.5)


def test_selection_and_estimation_share_no_draw() -> None:
    selection, *estimation = seen_by(100, 250, 100)
    assert len(estimation) == 3
    drawn = {tuple(row) for row in selection.tolist()}
    assert not drawn & {tuple(row) for batch in estimation for row in batch.tolist()}


def test_the_classifier_sees_batches_of_one_shape_the_last_one_too() -> None:
    assert [len(batch) for batch in seen_by(100, 250, 100)] == [100, 100, 100, 100]


def test_more_samples_begin_with_the_samples_of_fewer() -> None:
    few, many = seen_by(50, 200, 100), seen_by(50, 400, 100)
    assert all(torch.equal(a, b) for a, b in zip(few, many, strict=False))


def test_a_block_never_exceeds_what_is_asked_for() -> None:
    assert [len(batch) for batch in seen_by(10, 30, 1000)] == [10, 30]


class Normed(nn.Module):
    """A network whose answers depend on its mode: batch statistics in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.norm.running_mean = torch.tensor([0.1, -0.2])
        self.frozen = nn.Dropout(0.5).eval()
        self.head = nn.Linear(2, 2)
        nn.init.eye_(self.head.weight)

    def forward(self, batch: Tensor) -> Tensor:
        return self.head(self.frozen(self.norm(batch)))


@pytest.fixture
def normed() -> Iterator[Normed]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield Normed()


def test_a_module_in_train_mode_is_certified_in_eval_mode(normed: Normed) -> None:
    x = torch.tensor([0.3, 0.1])
    in_eval = certify(normed.eval(), x, sigma=0.5, n=1000)
    normed.train()
    assert counts_of(certify(normed, x, sigma=0.5, n=1000)) == counts_of(in_eval)
    assert torch.equal(normed.norm.running_mean, torch.tensor([0.1, -0.2]))


def test_a_module_gets_its_modes_back(normed: Normed) -> None:
    certify(normed, torch.zeros(2), sigma=0.5, n=100)
    modes = {name: module.training for name, module in normed.named_modules()}
    assert modes == {"": True, "norm": True, "frozen": False, "head": True}


def test_a_module_gets_its_modes_back_after_an_error(normed: Normed) -> None:
    with pytest.raises(
        ModelError, match=r"fails on inputs \[100, 3\] of torch.float32 on cpu \(RuntimeError: running_mean"
    ):
        certify(normed, torch.zeros(3), sigma=0.5, n=100)
    assert normed.training
    assert normed.norm.training
    assert not normed.frozen.training


def test_the_classifier_runs_without_gradients() -> None:
    weight = torch.tensor([1.0, 1.0], requires_grad=True)
    needs: list[bool] = []

    def classifier(batch: Tensor) -> Tensor:
        logits = linear(weight, 0.3)(batch)
        needs.append(logits.requires_grad)
        return logits

    certify(classifier, torch.zeros(2), sigma=0.5, n=100)
    assert not any(needs)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_single_logit_that_ranks_nothing_stops_everything(value: float) -> None:
    def classifier(batch: Tensor) -> Tensor:
        logits = torch.zeros(len(batch), 3)
        logits[-1, 2] = value
        return logits

    with pytest.raises(ModelError, match=r"the base classifier returned NaN or \+inf as a logit"):
        certify(classifier, torch.zeros(2), sigma=0.5, n=100)
    with pytest.raises(ModelError, match=r"the base classifier returned NaN or \+inf as a logit"):
        predict(classifier, torch.zeros(2), sigma=0.5, n=100)


@pytest.mark.parametrize("shape", [(100,), (100, 1), (99, 2), (100, 2, 1)])
def test_logits_of_a_wrong_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=r"returned shape .* for 100 inputs; expected \[100, class\]"):
        certify(lambda _: torch.zeros(shape), torch.zeros(2), sigma=0.5, n=100)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sigma": 0.0}, "sigma must be positive"),
        ({"sigma": float("nan")}, "sigma must be positive"),
        ({"alpha": 0.0}, "alpha must lie in"),
        ({"alpha": 1.0}, "alpha must lie in"),
        ({"n": 0}, "n must be at least 1"),
        ({"block_size": 0}, "block_size must be at least 1"),
        ({"block_size": 100, "batch_size": 30}, "batch_size must divide block_size = 100, got 30"),
        ({"n": 20.0}, r"n must be a whole number, got 20\.0"),
        ({"seed": 1.9}, r"seed must be a whole number, got 1\.9"),
        ({"batch_size": 10.0}, r"batch_size must be a whole number, got 10\.0"),
        ({"seed": -1}, r"seed must lie in \[0, 2\^64\), got -1"),
        ({"example": 2**64}, r"example must lie in \[0, 2\^64\)"),
    ],
)
@pytest.mark.parametrize("call", [certify, predict])
def test_arguments_out_of_range_are_refused(call: Callable[..., Any], changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(constant(0.0, 1.0), torch.zeros(2), **{"sigma": 0.5, "n": 20, **changed})


@pytest.mark.parametrize("call", [certify, predict])
def test_a_network_whose_samples_depend_on_each_other_is_refused(call: Callable[..., Any]) -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3, track_running_stats=False))
    with pytest.raises(ModelError, match="1 normalizes by the batch"):
        call(network, torch.zeros(2), sigma=0.5, n=20)


def test_certify_needs_a_selection_sample() -> None:
    with pytest.raises(ValueError, match="n0 must be at least 1"):
        certify(constant(0.0, 1.0), torch.zeros(2), sigma=0.5, n0=0, n=10)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, dtype=torch.uint8), r"must hold floating-point numbers, got torch.uint8; .* x.float\(\) / 255"),
        (torch.tensor([0.0, float("nan"), float("inf")]), "must hold finite numbers; 2 of 3 are NaN or infinite"),
        (np.zeros((1, 8, 8)), r"must be a torch.Tensor, got numpy.ndarray; give torch.from_numpy\(x\).float\(\)"),
        ([[0.0, 1.0]], "must be a torch.Tensor, got builtins.list"),
        (torch.zeros(1, 3, 8, 8), r"is a batch of one, \[1, 3, 8, 8\]; give the image alone, x\[0\]"),
        (torch.arange(256.0), r"holds whole numbers up to 255, bytes, .* sigma = 0.5 is no noise; give x / 255"),
    ],
)
@pytest.mark.parametrize("call", [certify, predict])
def test_what_is_no_input_is_refused_in_one_line(call: Callable[..., Any], x: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^x {message}") as refusal:
        call(constant(0.0, 1.0), x, sigma=0.5, n=20)
    assert "\n" not in str(refusal.value)


def test_inputs_may_be_in_other_units_than_pixels_in_0_to_1() -> None:
    bytes_ = torch.full((2,), 200.0)
    assert certify(constant(0.0, 1.0), bytes_, sigma=0.5 * 255, n=20).prediction == 1
    assert certify(constant(0.0, 1.0), bytes_ - 0.5, sigma=0.5, n=20).prediction == 1
    assert certify(constant(0.0, 1.0), torch.zeros(1, 5, 8, 8), sigma=0.5, n=20).prediction == 1


def test_float64_is_taken_by_a_network_of_float64_and_refused_in_one_line_by_another() -> None:
    network, x = nn.Linear(2, 2), torch.zeros(2, dtype=torch.float64)
    assert certify(nn.Linear(2, 2).double(), x, sigma=0.5, n=20).n == 20
    with pytest.raises(
        ModelError, match=r"fails on inputs \[100, 2\] of torch.float64 .*; x is float64, give x.float\(\)"
    ):
        certify(network, x, sigma=0.5, n=100)


def test_predict_returns_the_class_far_from_the_boundary() -> None:
    classifier, x = at_distance(0.5)
    assert predict(classifier, x, sigma=0.5, n=1000) == 1


def test_predict_abstains_when_its_samples_tie() -> None:
    def alternating(batch: Tensor) -> Tensor:
        return torch.eye(2)[torch.arange(len(batch)) % 2]

    assert predict(alternating, torch.zeros(2), sigma=0.5, n=100, alpha=0.99) == ABSTAIN


def test_predict_answers_on_the_boundary_at_most_as_often_as_alpha_says() -> None:
    classifier, x = deployed_at(0.0)
    alpha, runs = 0.1, 1000
    answered = sum(predict(classifier, x, sigma=0.5, n=60, alpha=alpha, seed=s) != ABSTAIN for s in range(runs))
    assert answered <= binom.isf(FALSE_ALARM, runs, alpha)


def test_predict_needs_enough_agreement_for_its_alpha() -> None:
    # 10 equal answers have the two-sided p-value 2 / 1024.
    call = {"sigma": 0.5, "n": 10}
    assert predict(constant(0.0, 1.0), torch.zeros(2), alpha=0.0020, **call) == 1
    with pytest.raises(ValueError, match=r"n = 10 can never predict at alpha = 0\.0019; use n >= 11"):
        predict(constant(0.0, 1.0), torch.zeros(2), alpha=0.0019, **call)


@pytest.mark.parametrize("alpha", [0.1, 0.05, 0.01, 0.001, 1e-6])
def test_the_least_n_is_the_smallest_with_which_equal_answers_say_anything(alpha: float) -> None:
    least = least_to_certify(alpha)
    bounds = clopper_pearson_lower([least - 1, least], [least - 1, least], alpha=alpha)
    assert bounds[0] < 0.5 < bounds[1]
    call = {"sigma": 1.0, "alpha": alpha}
    assert certify(constant(0.0, 1.0), torch.zeros(2), n=least, **call).prediction == 1
    with pytest.raises(ValueError, match=f"n = {least - 1} can never certify at alpha = {alpha:g}; use n >= {least}"):
        certify(constant(0.0, 1.0), torch.zeros(2), n=least - 1, **call)
    least = least_to_predict(alpha)
    assert [predict_counts(np.array([0, size]), alpha=alpha) for size in (least - 1, least)] == [ABSTAIN, 1]
    assert predict(constant(0.0, 1.0), torch.zeros(2), n=least, **call) == 1
    with pytest.raises(ValueError, match=f"n = {least - 1} can never predict at alpha = {alpha:g}; use n >= {least}"):
        predict(constant(0.0, 1.0), torch.zeros(2), n=least - 1, **call)
