"""Facts about what ensembles give: closed forms of changes and limits, fits and their intervals."""

import math

import numpy as np
import pytest

from rspipe.ensembles.calibration import Calibration
from rspipe.ensembles.diagnostics import fit_hyperbola, gaussian_limit, predicted_changes, variance_share
from rspipe.smoothing.inference import contrast

CAP = 3.0


def exchangeable(k: int, rho: float, *, images: int = 50, spread: float = 0.0, seed: int = 0) -> Calibration:
    """Members of mean margin 1 and noise of variance 0.25 and correlation rho; images differ by `spread`."""
    mean = np.maximum(1 + spread * np.random.default_rng(seed).normal(size=(images, 1, 1)), 0.1) * np.ones(k)
    covariance = np.tile(0.25 * (rho + (1 - rho) * np.eye(k)), (images, 1, 1, 1))
    return Calibration(mean, covariance, 200, CAP)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("k", [2, 5])
def test_averaging_exchangeable_members_is_predicted_in_closed_form(rho: float, k: int) -> None:
    """t = 1 / sqrt(.25 (rho + (1 - rho) / k)), of a member 2."""
    change = predicted_changes(exchangeable(k, rho), [(range(k), [1 / k] * k)], sigma=0.5)[0]
    expected = 0.5 * (min(CAP, 2 / np.sqrt(rho + (1 - rho) / k)) - 2)
    assert change.mean() == pytest.approx(expected)
    assert change == pytest.approx(expected)
    assert variance_share(exchangeable(k, rho), [1 / k] * k) == pytest.approx(rho + (1 - rho) / k)


def test_ensembles_of_some_members_are_predicted_as_if_there_were_no_others() -> None:
    rng = np.random.default_rng(0)
    margins = rng.normal(1.5, 1.0, (30, 40, 3, 5)).astype(np.float16)
    values = margins.astype(np.float64)
    covariance = np.array([[np.cov(values[i, :, c], rowvar=False) for c in range(3)] for i in range(30)])
    whole = Calibration(values.mean(1), covariance, 40, CAP, margins=margins)
    ensembles = [((3, 1), (0.25, 0.75)), ((0, 2, 4), (0.5, 0.0, 0.5)), ((2,), (1.0,))]
    together = predicted_changes(whole, ensembles, sigma=0.5)
    for (members, weights), change in zip(ensembles, together, strict=True):
        radii = whole.of_members(members).radii(np.vstack([weights, np.eye(len(members))]))
        assert change == pytest.approx(0.5 * (radii[0] - radii[1:].mean(0)), abs=1e-12)
    assert (together[:2] != 0).any(axis=1).all()
    assert not together[2].any()


def test_a_noisy_partner_is_predicted_to_hurt() -> None:
    """Equal means, sd 1 and 3, rho .9: the average has variance (1 + 9 + 5.4) / 4 = 3.85; members have t 1 and 1/3."""
    covariance = np.array([[1.0, 2.7], [2.7, 9.0]])
    calibration = Calibration(np.ones((10, 1, 2)), np.tile(covariance, (10, 1, 1, 1)), 200, CAP)
    change = predicted_changes(calibration, [((0, 1), (0.5, 0.5))], sigma=1.0)[0]
    assert change.mean() == pytest.approx(3.85**-0.5 - (1 + 1 / 3) / 2)
    assert change.mean() < 0


def test_the_limit_of_exchangeable_members_is_the_floor_that_they_have_in_common() -> None:
    limit = gaussian_limit(exchangeable(3, 0.5), sigma=0.5, numbers=(1.0, 3.0, math.inf))
    assert limit.gains[1.0].estimate == 0
    assert limit.gains[3.0].estimate == pytest.approx(0.5 * (2 / np.sqrt(2 / 3) - 2))
    assert limit.gains[math.inf].estimate == pytest.approx(0.5 * (2 / np.sqrt(0.5) - 2))


def test_the_limit_agrees_with_the_prediction_at_the_number_of_members_that_there_are() -> None:
    calibration = exchangeable(4, 0.6, spread=0.3)
    limit = gaussian_limit(calibration, sigma=0.25, numbers=(4.0,))
    expected = predicted_changes(calibration, [(range(4), [0.25] * 4)], sigma=0.25)[0]
    assert limit.gains[4.0].estimate == pytest.approx(expected.mean())
    assert limit.gains[4.0].high == pytest.approx(contrast(expected, ()).models.high)


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
