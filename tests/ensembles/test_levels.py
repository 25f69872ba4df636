"""Facts about what calibration images lead to expect of a cascade: votes, radii, and which are right."""

import numpy as np
import pytest
from scipy.special import ndtri

from rspipe.ensembles.calibration import Calibration
from rspipe.ensembles.levels import CRITERIA, expected_credits
from rspipe.smoothing.cascades import cascade

A, B, DRAWS = 0.5, 0.25, 199


def q(votes: int) -> float:
    return float(ndtri((votes + 0.5) / (DRAWS + 1)))


def test_votes_are_the_draws_at_which_the_weighted_margins_make_each_class_the_largest() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(3, 40, 4, 2)) + np.array([0.8, 0.4, 0.0, 0.0])[:, None]
    margins = (scores[:, :, :1] - scores[:, :, 1:]).astype(np.float16)
    calibration = Calibration(np.zeros((3, 3, 2)), np.zeros((3, 3, 2, 2)), 40, 3.0, margins=margins)
    for weights in ([1.0, 0.0], [0.3, 0.7]):
        votes = calibration.votes(np.array(weights))
        expected = (scores @ weights).argmax(-1)
        assert votes.sum(1).tolist() == [40] * 3
        assert votes.tolist() == [np.bincount(row, minlength=4).tolist() for row in expected]


def test_each_image_has_the_radius_of_the_level_that_answers_and_none_where_it_is_wrong() -> None:
    first = np.array([[180, 19, 0], [90, 80, 29], [90, 80, 29], [19, 180, 0], [90, 80, 29]])
    second = np.array([[0, 199, 0], [199, 0, 0], [110, 80, 9], [199, 0, 0], [95, 90, 14]])
    found = expected_credits([(A, first), (B, second)], cap=3.0)
    handed = -A * q(90)
    assert found == pytest.approx([A * q(180), handed, min(handed, B * q(110)), 0, 0])
    both = expected_credits([(A, first), (B, second)], cap=3.0, two_sided=True)
    assert both[4] == pytest.approx(min(handed, B / 2 * (q(95) - q(90))))
    assert np.array_equal(both[:2], found[:2])
    assert expected_credits([(A, first), (B, second)], cap=0.5)[0] == 0.25
    assert CRITERIA["accuracy"](found) == 0.6
    assert CRITERIA["radius"](found) == pytest.approx(found.mean())


def test_what_is_expected_is_what_many_samples_certify() -> None:
    """With shares taken for probabilities, up to what the certificate's bounds keep back."""
    n = 10_000_000
    first, second = np.array([[60, 120, 20], [150, 30, 20]]), np.array([[140, 40, 20], [20, 160, 20]])
    many = [(A, first, first * (n // 200)), (B, second, second * (n // 200))]
    certified = cascade(many, alpha=0.001)
    expected = expected_credits([(A, first), (B, second)], cap=9.0)
    right = np.where(certified.prediction == 0, certified.radius, 0)
    assert expected == pytest.approx(right, abs=0.01)
