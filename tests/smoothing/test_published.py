"""Facts about published figures: what they say of the recipe trained here, rounded and of few seeds as they are."""

import numpy as np
import pytest
from scipy.stats import norm, t

from rspipe.smoothing.inference import difference
from rspipe.smoothing.published import (
    Figure,
    difference_from_figure,
    difference_from_published,
    rounding_variance,
    seed_sd_of_range,
)

OWN = np.array([[1.553], [1.559], [1.557]]) + np.resize([0.1, -0.1], 100)


def test_the_worked_case_of_a_rounded_figure_of_one_seed_comes_out_to_all_digits_given():
    one = difference_from_figure(OWN, Figure(acr=1.549, images=100, decimals=3)).procedures
    assert (one.estimate, one.low, one.high) == pytest.approx((0.007333, -0.007856, 0.022522), abs=1e-6)
    assert (one.seed_variance, one.rounding_variance) == pytest.approx((12.4444e-6, 0.083333e-6), abs=5e-11)
    assert (one.df, one.image_variance, one.p) == pytest.approx((2, 0, 0.1736), abs=5e-5)
    assert one.verdict == "consistent with"


def test_on_the_same_images_models_differ_by_a_fact_but_for_rounding():
    exact = difference_from_figure(OWN, Figure(acr=1.549, images=100)).models
    assert (exact.low, exact.high) == pytest.approx((OWN.mean() - 1.549,) * 2)
    rounded = difference_from_figure(OWN, Figure(acr=1.549, images=100, decimals=2)).models
    assert (rounded.high - rounded.low) / 2 == pytest.approx(1.959964 * (0.01**2 / 12) ** 0.5)


def test_the_scatter_of_published_seeds_takes_the_place_of_our_own():
    one = difference_from_figure(OWN, Figure(acr=1.549, images=100, seeds=5, seed_sd=0.004)).procedures
    own, theirs = 9.3333e-6 / 3, 0.004**2 / 5
    assert one.seed_variance == pytest.approx(own + theirs, rel=1e-4)
    assert one.df == pytest.approx((own + theirs) ** 2 / (own**2 / 2 + theirs**2 / 4), rel=1e-4)
    assert seed_sd_of_range(1.0, 1.0169, seeds=3) == pytest.approx(0.01)


def test_a_part_of_their_images_and_other_images_are_two_samples():
    rng = np.random.default_rng(0)
    own = 1 + 0.5 * rng.normal(size=100) + 0.02 * rng.normal(size=(3, 100))
    rest = own - own.mean(0) - own.mean(1, keepdims=True) + own.mean()
    variance = own.mean(0).var(ddof=1) - np.square(rest).sum() / (2 * 99) / 3
    part, other = (
        difference_from_figure(own, Figure(acr=1.0, images=400), images=images).procedures
        for images in ("among theirs", "others")
    )
    assert part.image_variance == pytest.approx(variance * (1 / 100 - 1 / 400))
    assert other.image_variance == pytest.approx(variance * (1 / 100 + 1 / 400))


def test_figures_of_single_precision_overflow_nothing():
    figure, plain = (Figure(acr=kind(1.549), images=100, seeds=5, seed_sd=kind(0.004)) for kind in (np.float32, float))
    one, other = (difference_from_figure(OWN, figure).procedures for figure in (figure, plain))
    assert (one.low, one.p) == pytest.approx((other.low, other.p), rel=1e-4)


def test_one_seed_here_says_nothing_of_the_recipe():
    one = difference_from_figure(OWN[:1], Figure(acr=1.5, images=400))
    assert one.procedures is None
    assert one.models.verdict == "higher than"


def test_figures_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match=r"\[seed, image\]"):
        difference_from_figure(OWN[0], Figure(acr=1.5, images=400))
    for own, acr in ((np.where(OWN < 1.5, np.nan, OWN), 1.5), (OWN, np.nan)):
        with pytest.raises(ValueError, match="must be finite"):
            difference_from_figure(own, Figure(acr=acr, images=400))
    with pytest.raises(ValueError, match="population must be at least"):
        difference_from_figure(OWN, Figure(acr=1.5, images=50))
    with pytest.raises(ValueError, match="no scatter"):
        difference_from_figure(OWN, Figure(acr=1.5, images=100, seed_sd=0.1))
    with pytest.raises(ValueError, match="2 to 5 seeds"):
        seed_sd_of_range(1.0, 1.1, seeds=9)


def test_rounding_spreads_a_figure_evenly_over_its_last_digit():
    values = np.linspace(-0.0005, 0.0005, 100_001)
    assert rounding_variance(3) == pytest.approx(values.var(), rel=1e-4)
    assert rounding_variance(None) == 0


def test_a_figure_of_the_same_recipe_is_seldom_called_different_and_as_a_point_often():
    rng, families, sd = np.random.default_rng(1), 2000, 0.001
    wrong = {"rule": 0, "point": 0}
    for _ in range(families):
        acr = 1.5 + sd * rng.normal(size=4)
        own = acr[:3, None] + np.resize([0.1, -0.1], 50)
        result = difference_from_figure(own, Figure(acr=round(acr[3], 3), images=50, decimals=3))
        wrong["rule"] += result.procedures.verdict != "consistent with"
        wrong["point"] += result.models.verdict != "consistent with"
    assert wrong["rule"] / families <= 0.05 + 3 * (0.05 * 0.95 / families) ** 0.5
    # Seeds here and there: variance sd^2 (1/3 + 1), and the rounding beside them, where rounding alone is believed.
    z = 1.959964 * (1e-6 / 12) ** 0.5 / (sd**2 * 4 / 3 + 1e-6 / 12) ** 0.5
    expected = 2 * norm.sf(z)
    assert wrong["point"] / families == pytest.approx(expected, abs=3 * (expected * (1 - expected) / families) ** 0.5)


def test_the_size_of_a_difference_is_judged_against_the_published_one_with_the_seeds_of_both():
    a, b = OWN + 0.05, OWN[:2] - np.resize([0.02, 0.0], 100)
    one = difference_from_published(a, b, 0.02, decimals=3, seeds=(1, 5), population=100)
    v, w = a.mean(1).var(ddof=1) * (1 / 3 + 1), b.mean(1).var(ddof=1) * (1 / 2 + 1 / 5)
    df = (v + w) ** 2 / (v**2 / 2 + w**2)
    half = ((t.ppf(0.975, df) ** 2) * (v + w) + 1.959964**2 * 2e-6 / 12) ** 0.5
    assert one.estimate == pytest.approx(a.mean() - b.mean() - 0.02)
    assert (one.high - one.low) / 2 == pytest.approx(half, rel=1e-6)
    assert difference_from_published(a, b[:1], 0.02) is None


def test_a_published_difference_that_was_measured_again_is_as_large():
    rng = np.random.default_rng(5)
    a, b = (1 + 0.1 * rng.random(200) + 0.003 * rng.normal(size=(3, 1)) + shift for shift in (0.05, 0.0))
    by = difference(a, b).estimate
    assert difference_from_published(a, b, by, decimals=3).verdict == "as large"
    assert difference_from_published(a, b, by - 0.3, decimals=3).verdict == "larger"
    assert difference_from_published(a, b, by + 0.3, decimals=3).verdict == "smaller"
