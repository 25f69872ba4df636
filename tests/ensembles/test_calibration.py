"""Facts about radii estimated on calibration images: counted draws, Gaussian margins, selection of members."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import ndtri
from torch import nn

from rspipe.arrays import FloatArray
from rspipe.ensembles.calibration import Calibration, margin_moments
from rspipe.smoothing.ensemble import Ensemble

CAP = 3.0


def drawn(samples: FloatArray, *, draws: int | None = None) -> Calibration:
    """Return the calibration of margins [image, draw, competitor, k]."""
    deviation = samples - samples.mean(1, keepdims=True)
    covariance = np.einsum("idck,idcl->ickl", deviation, deviation) / (samples.shape[1] - 1)
    return Calibration(samples.mean(1), covariance, draws or samples.shape[1], CAP, None, samples.astype(np.float16))


def test_a_radius_is_that_of_the_share_of_draws_at_which_the_label_beats_every_competitor() -> None:
    """Of four draws the first member is right at two (one competitor wins each of the others), the average at three."""
    first = [[1.0, 1.0], [-1.0, 1.0], [1.0, -3.0], [2.0, 2.0]]
    second = [[1.0, 1.0], [2.0, 1.0], [1.0, 1.0], [2.0, 2.0]]
    calibrated = drawn(np.stack([first, second], axis=-1)[None])
    assert calibrated.radii(np.array([1.0, 0.0])) == pytest.approx(ndtri([2.5 / 5]))
    assert calibrated.radii(np.array([0.5, 0.5])) == pytest.approx(ndtri([3.5 / 5]))
    assert calibrated.radii(np.array([0.0, 1.0])) == pytest.approx(ndtri([4.5 / 5]))


def test_weights_at_several_points_have_a_row_each() -> None:
    calibrated = drawn(np.random.default_rng(0).normal(0.5, 1, (6, 40, 3, 2)))
    grid = np.array([[0.2, 0.8], [1.0, 0.0], [0.5, 0.5]])
    rows = calibrated.radii(grid)
    assert rows.shape == (3, 6)
    for row, weights in zip(rows, grid, strict=True):
        assert np.array_equal(row, calibrated.radii(weights))


def test_radii_lie_between_nothing_and_the_cap() -> None:
    samples = np.concatenate([np.ones((1, 5000, 1, 1)), -np.ones((1, 5000, 1, 1))])
    assert drawn(samples).radii(np.ones(1)).tolist() == [CAP, 0.0]


def test_images_that_are_right_at_all_draws_are_those_whose_radii_end() -> None:
    """Of 200 draws no more is seen than Phi^-1(200.5 / 201) = 2.81, whatever the radius is."""
    always, nearly = np.ones((3, 200, 2, 2)), np.ones((1, 200, 2, 2))
    nearly[0, 17, 1] = -1.0
    calibrated = drawn(np.concatenate([always, nearly]))
    average = np.full(2, 0.5)
    assert calibrated.largest_radius == pytest.approx(ndtri(200.5 / 201))
    assert calibrated.largest_radius == pytest.approx(2.81, abs=0.005)
    assert calibrated.radii(average)[:3] == pytest.approx([calibrated.largest_radius] * 3)
    assert calibrated.radii(average)[3] == pytest.approx(ndtri(199.5 / 201))
    assert calibrated.saturated(average) == 0.75
    assert replace(calibrated, margins=None).largest_radius == CAP


@pytest.mark.parametrize("t", [0.3, 1.0, 1.8])
def test_with_gaussian_margins_and_one_competitor_both_estimates_are_the_ratio(t: float) -> None:
    draws = 20_000
    samples = np.random.default_rng(1).normal(t, 1, (1, draws, 1, 1))
    calibrated = drawn(samples)
    p = 0.5 + abs(0.5 - np.mean(samples > 0))
    # Six standard errors: of a share through the quantile function, and of a sample's ratio.
    error = 6 * np.sqrt(p * (1 - p) / draws) * np.sqrt(2 * np.pi) * np.exp(t**2 / 2)
    assert calibrated.radii(np.ones(1)) == pytest.approx([t], abs=error)
    assert calibrated.gaussian_radii(np.ones(1)) == pytest.approx([t], abs=6 * np.sqrt((1 + t**2 / 2) / draws))


def test_margins_that_saturate_are_counted_and_not_taken_for_gaussian() -> None:
    """.9 at 85 % of the draws, else -.1: Phi^-1(.85) = 1.04 is the truth, mean / sd = .75 / .357 = 2.1 is not."""
    samples = np.where(np.arange(1000) < 850, 0.9, -0.1)[None, :, None, None]
    calibrated = drawn(samples)
    assert calibrated.radii(np.ones(1)) == pytest.approx(ndtri([850.5 / 1001]))
    assert calibrated.gaussian_radii(np.ones(1)) == pytest.approx([0.75 / 0.357], rel=1e-3)


def test_several_competitors_are_worse_than_the_strongest_alone() -> None:
    """Three independent competitors with ratio 1: all lose with probability Phi(1)^3 = .595; Gaussian margins see 1."""
    calibrated = drawn(np.random.default_rng(2).normal(1, 1, (1, 20_000, 3, 1)))
    assert calibrated.radii(np.ones(1)) == pytest.approx(ndtri([0.8413**3]), abs=0.06)
    assert calibrated.gaussian_radii(np.ones(1)) == pytest.approx([1.0], abs=0.06)


def test_where_margins_were_not_kept_they_are_taken_for_gaussian() -> None:
    calibrated = replace(drawn(np.random.default_rng(3).normal(0.5, 1, (6, 40, 3, 2))), margins=None)
    grid = np.array([[0.2, 0.8], [1.0, 0.0]])
    assert np.array_equal(calibrated.radii(grid), np.stack([calibrated.gaussian_radii(one) for one in grid]))
    assert np.array_equal(calibrated.radii(grid[0]), calibrated.gaussian_radii(grid[0]))


def test_members_and_images_are_selected_alike_everywhere() -> None:
    whole = drawn(np.random.default_rng(4).normal(0.5, 1, (8, 30, 3, 4)))
    whole = replace(whole, label_probability=np.random.default_rng(5).uniform(size=(8, 30, 4)))
    calibrated: Any = whole.of_members([2, 0]).of_images(np.array([5, 1]))
    given: Any = whole
    for name in ("mean", "label_probability", "margins"):
        assert np.array_equal(getattr(calibrated, name), getattr(given, name)[[5, 1]][..., [2, 0]]), name
    assert np.array_equal(calibrated.covariance[..., 0, 1], given.covariance[[5, 1]][..., 2, 0])
    assert np.array_equal(calibrated.radii(np.array([0.3, 0.7])), given.radii(np.array([0.7, 0, 0.3, 0]))[[5, 1]])


IMAGES = torch.full((3, 1, 2, 2), 0.3)


def linear(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(1)[:, :2]


def test_labels_of_calibration_images_may_be_a_tensor() -> None:
    for labels in ([0, 1, 0], torch.tensor([0, 1, 0]), np.array([0, 1, 0])):
        assert margin_moments([linear, linear], IMAGES, labels, sigma=0.5, draws=4).mean.shape == (3, 1, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": (255 * IMAGES).byte()}, "of bytes give"),
        ({"images": (255 * IMAGES).round()}, "bytes, beside which sigma = 0.5 is no noise"),
        ({"images": torch.full((3, 1, 2, 2), torch.nan)}, "x must hold finite numbers"),
        ({"labels": [0, 1, 2]}, "label 2 of image 2 is none of the classifier's 2 classes"),
        ({"labels": [0, 1, -1]}, "label -1 of image 2 is none of the classifier's 2 classes"),
        ({"labels": [[0], [1], [0]]}, r"labels have shape \[3, 1\]; give one whole number an image"),
        ({"labels": [0.0, 1.0, 0.5]}, "labels must be whole numbers, got float64"),
        ({"examples": [0, 1]}, "examples and images must be equally many, got 2 and 3"),
        ({"sigma": np.inf}, "sigma positive, .* and inf"),
        ({"n": 5}, "n = 5 can never certify at alpha = 0.001; use n >= 10"),
        ({"alpha": 0.0}, "alpha must lie in"),
        ({"models": [linear]}, "an ensemble has two members or more, got 1"),
        ({"models": [linear, Ensemble([nn.Flatten(), nn.Flatten()])]}, "model 1 is an Ensemble"),
    ],
)
def test_calibration_images_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    call = {"models": [linear, linear], "images": IMAGES, "labels": [0, 1, 0], "sigma": 0.5, "draws": 4, **changes}
    with pytest.raises(ValueError, match=message):
        margin_moments(call.pop("models"), call.pop("images"), call.pop("labels"), **call)
