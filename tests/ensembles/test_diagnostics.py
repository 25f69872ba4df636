"""Facts about why ensembles help or hurt: closed forms of variances, limits, fits and their intervals."""

import math

import numpy as np
import pytest

from rspipe.ensembles.calibration import Calibration
from rspipe.ensembles.diagnostics import (
    Across,
    NoiseStructure,
    fit_hyperbola,
    gaussian_limit,
    noise_structure,
    predicted_change,
    variance_share,
)

CAP = 3.0
METHODS = ("a", "a", "b", "b")


def exchangeable(k: int, rho: float, *, images: int = 50, spread: float = 0.0, seed: int = 0) -> Calibration:
    """Members of mean margin 1 and noise of variance 0.25 and correlation rho; images differ by `spread`."""
    mean = np.maximum(1 + spread * np.random.default_rng(seed).normal(size=(images, 1, 1)), 0.1) * np.ones(k)
    covariance = np.tile(0.25 * (rho + (1 - rho) * np.eye(k)), (images, 1, 1, 1))
    return Calibration(mean, covariance, 200, CAP)


def two_methods(within: tuple[float, float], across: float, variances: tuple[float, float] = (1.0, 1.0)) -> Calibration:
    """Two models of each of two methods, of mean margins 1 and variances v of noise."""
    v, c = variances, within
    scatter = np.array(
        [
            [v[0], c[0], across, across],
            [c[0], v[0], across, across],
            [across, across, v[1], c[1]],
            [across, across, c[1], v[1]],
        ]
    )
    rng = np.random.default_rng(0)
    scale = rng.uniform(0.5, 1.5, (30, 1, 1))
    return Calibration(np.ones((30, 1, 4)), (scale * scatter)[:, None], 200, CAP)


def across(found: NoiseStructure) -> Across:
    """The two methods' covariance and mixing, where all pairs are of one kind."""
    (only,) = found.across
    assert (only.first, only.second) == ("a", "b")
    return only


def test_pairs_with_a_seed_in_common_are_never_averaged_with_others() -> None:
    """Equal seeds covary by .8, others by .3: a0 b0 and a1 b1 against a0 b1 and a1 b0."""
    scatter = np.array([[1.0, 0.5, 0.8, 0.3], [0.5, 1.0, 0.3, 0.8], [0.8, 0.3, 1.0, 0.5], [0.3, 0.8, 0.5, 1.0]])
    calibration = Calibration(np.ones((30, 1, 4)), np.tile(scatter, (30, 1, 1, 1)), 200, CAP)
    found = noise_structure(calibration, METHODS, common_seeds=(0, 1, 0, 1))
    assert found is not None
    assert {one.common_seed: one.covariance.estimate for one in found.across} == pytest.approx({False: 0.3, True: 0.8})
    changes = {one.common_seed: one.less_first.estimate for one in found.across if one.less_first is not None}
    # (2 + 2 c) / 4 of the mixed average, less (2 + 1) / 4.
    assert changes == pytest.approx({False: -0.1, True: 0.15})


@pytest.mark.parametrize("seeds", [None, (None,) * 4, (0, 1, 2, 3), (0, 1, None, None)])
def test_members_are_independent_unless_both_have_the_seed_in_common(seeds: tuple[int | None, ...] | None) -> None:
    found = noise_structure(two_methods((0.6, 0.4), 0.3), METHODS, common_seeds=seeds)
    assert found is not None
    assert not across(found).common_seed


def test_variances_and_covariances_are_averages_over_models_and_images() -> None:
    calibration = two_methods((0.6, 0.4), 0.3, (1.0, 0.8))
    found = noise_structure(calibration, METHODS)
    assert found is not None
    scale = calibration.covariance[:, 0, 0, 0].mean()
    assert found.variance["a"].estimate == pytest.approx(scale)
    assert found.variance["b"].estimate == pytest.approx(0.8 * scale)
    assert found.covariance["a"].estimate == pytest.approx(0.6 * scale)
    assert found.covariance["b"].estimate == pytest.approx(0.4 * scale)
    mixed = across(found)
    assert mixed.covariance.estimate == pytest.approx(0.3 * scale)
    assert found.floor["b"].estimate == pytest.approx(0.5)
    # Averages of A and B: (1 + .8 + .6) / 4; of two A: (2 + 1.2) / 4; of two B: (1.6 + .8) / 4.
    assert mixed.less_first is not None
    assert mixed.less_second is not None
    assert mixed.less_first.estimate == pytest.approx((0.6 - 0.8) * scale)
    assert mixed.less_second.estimate == pytest.approx((0.6 - 0.6) * scale, abs=1e-12)
    assert (found.models, found.images) == ({"a": 2, "b": 2}, 30)


def test_the_difference_of_mixing_is_that_of_the_variances_of_the_averages() -> None:
    calibration = two_methods((0.6, 0.4), 0.3, (1.0, 0.8))
    found = noise_structure(calibration, METHODS)
    assert found is not None
    pooled = calibration.covariance.mean((0, 1))

    def variance(*members: int) -> float:
        w = np.bincount(members, minlength=4) / len(members)
        return float(w @ pooled @ w)

    mixed = across(found)
    assert mixed.less_first is not None
    assert mixed.less_second is not None
    assert mixed.less_first.estimate == pytest.approx(variance(0, 2) - variance(0, 1))
    assert mixed.less_second.estimate == pytest.approx(variance(0, 2) - variance(2, 3))


def test_a_member_in_other_units_is_the_same_after_standardization() -> None:
    calibration = two_methods((0.6, 0.4), 0.3)
    d = np.array([1.0, 10.0, 0.1, 3.0])
    scaled = Calibration(calibration.mean * d, calibration.covariance * np.outer(d, d), 200, CAP)
    # Which competitor and which images count is decided by the uniform ensemble, here with one competitor.
    ours, theirs = (noise_structure(one, METHODS) for one in (calibration, scaled))
    assert ours is not None
    assert theirs is not None
    one, other = across(ours), across(theirs)
    assert other.covariance.estimate == pytest.approx(one.covariance.estimate)
    assert one.less_first is not None
    assert other.less_first is not None
    assert other.less_first.low == pytest.approx(one.less_first.low)


def test_a_covariance_within_a_method_never_exceeds_the_variance() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        root = rng.normal(size=(10, 1, 4, 6))
        found = noise_structure(Calibration(np.ones((10, 1, 4)), root @ np.swapaxes(root, 2, 3), 200, CAP), METHODS)
        assert found is not None
        assert all(found.covariance[name].estimate <= found.variance[name].estimate for name in ("a", "b"))


def test_bootstrap_intervals_are_about_two_standard_errors_wide() -> None:
    calibration = two_methods((0.6, 0.6), 0.6)
    found = noise_structure(calibration, METHODS)
    assert found is not None
    values = calibration.covariance[:, 0, 0, 0]
    width = found.variance["a"].high - found.variance["a"].low
    # 1000 resamples know a standard deviation to 2 % and the two quantiles to about 10 %.
    assert width == pytest.approx(2 * 1.96 * values.std() / np.sqrt(len(values)), rel=0.2)


def test_a_member_without_a_positive_mean_margin_is_left_out() -> None:
    calibration = two_methods((0.6, 0.6), 0.6)
    calibration.mean[..., 3] = -0.5
    found = noise_structure(calibration, METHODS)
    assert found is not None
    assert found.models == {"a": 2, "b": 1}
    assert "b" not in found.covariance
    assert "b" not in found.floor


def test_without_images_that_are_right_there_is_no_structure() -> None:
    calibration = two_methods((0.6, 0.6), 0.6)
    assert noise_structure(Calibration(-calibration.mean, calibration.covariance, 200, CAP), METHODS) is None


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("k", [2, 5])
def test_averaging_exchangeable_members_is_predicted_in_closed_form(rho: float, k: int) -> None:
    """t = 1 / sqrt(.25 (rho + (1 - rho) / k)), of a member 2."""
    change = predicted_change(exchangeable(k, rho), [1 / k] * k, sigma=0.5)
    expected = 0.5 * (min(CAP, 2 / np.sqrt(rho + (1 - rho) / k)) - 2)
    assert change.estimate == pytest.approx(expected)
    assert (change.low, change.high) == pytest.approx((expected, expected))
    assert variance_share(exchangeable(k, rho), [1 / k] * k) == pytest.approx(rho + (1 - rho) / k)


def test_a_noisy_partner_is_predicted_to_hurt() -> None:
    """Equal means, sd 1 and 3, rho .9: the average has variance (1 + 9 + 5.4) / 4 = 3.85; members have t 1 and 1/3."""
    covariance = np.array([[1.0, 2.7], [2.7, 9.0]])
    calibration = Calibration(np.ones((10, 1, 2)), np.tile(covariance, (10, 1, 1, 1)), 200, CAP)
    change = predicted_change(calibration, [0.5, 0.5], sigma=1.0)
    assert change.estimate == pytest.approx(3.85**-0.5 - (1 + 1 / 3) / 2)
    assert change.estimate < 0


def test_the_limit_of_exchangeable_members_is_the_floor_that_they_have_in_common() -> None:
    limit = gaussian_limit(exchangeable(3, 0.5), sigma=0.5, numbers=(1.0, 3.0, math.inf))
    assert limit.gains[1.0].estimate == 0
    assert limit.gains[3.0].estimate == pytest.approx(0.5 * (2 / np.sqrt(2 / 3) - 2))
    assert limit.gains[math.inf].estimate == pytest.approx(0.5 * (2 / np.sqrt(0.5) - 2))


def test_the_limit_agrees_with_the_prediction_at_the_number_of_members_that_there_are() -> None:
    calibration = exchangeable(4, 0.6, spread=0.3)
    limit = gaussian_limit(calibration, sigma=0.25, numbers=(4.0,))
    expected = predicted_change(calibration, [0.25] * 4, sigma=0.25)
    assert limit.gains[4.0].estimate == pytest.approx(expected.estimate)
    assert limit.gains[4.0].high == pytest.approx(expected.high)


def test_one_model_has_no_limit() -> None:
    with pytest.raises(ValueError, match="needs two models"):
        gaussian_limit(exchangeable(1, 0.0), sigma=1.0, numbers=(2.0,))


@pytest.mark.parametrize("sizes", [(1, 2, 4), (1, 2, 3, 4, 6)])
@pytest.mark.parametrize(("limit", "b", "kappa"), [(0.8, 0.2, 0.5), (0.8, 0.3, 0.0), (1.2, 1.0, 4.0)])
def test_a_hyperbola_is_found_again(sizes: tuple[int, ...], limit: float, b: float, kappa: float) -> None:
    noise = np.random.default_rng(0).normal(size=100)
    # Images differ, alike for all sizes: the means are those of the hyperbola, shifted.
    radii = {k: limit - b / (k + kappa) + 0.01 * (noise - noise.mean()) for k in sizes}
    fit = fit_hyperbola(radii)
    assert fit is not None
    # The scalar search ends within 1e-5 of the best kappa.
    assert fit.limit.estimate == pytest.approx(limit, abs=2e-3)
    assert fit.kappa == pytest.approx(kappa, abs=0.1)
    assert fit.limit.low <= fit.limit.estimate <= fit.limit.high
    if kappa > 0:
        assert fit.straight < fit.limit.estimate
    else:
        assert fit.straight == pytest.approx(limit)


def test_the_limit_of_three_sizes_is_that_of_the_closed_form() -> None:
    """r = (A4 - A2) / (A2 - A1), kappa = (4 r - 2) / (2 - r)."""
    a1, a2, a4 = 0.656, 0.724, 0.768
    r = (a4 - a2) / (a2 - a1)
    kappa = (4 * r - 2) / (2 - r)
    b = (a2 - a1) * (1 + kappa) * (2 + kappa)
    fit = fit_hyperbola({1: np.full(4, a1), 2: np.full(4, a2), 4: np.full(4, a4)})
    assert fit is not None
    assert fit.limit.estimate == pytest.approx(a1 + b / (1 + kappa), abs=1e-3)


def test_two_sizes_or_a_falling_acr_have_no_fit() -> None:
    assert fit_hyperbola({1: np.ones(3), 2: 2 * np.ones(3)}) is None
    assert fit_hyperbola({1: np.ones(3), 2: 0.9 * np.ones(3), 4: 0.8 * np.ones(3)}) is None
