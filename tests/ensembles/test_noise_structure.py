"""Facts about what noise members have in common: closed forms of variances, the delta method, seeds left out."""

from itertools import combinations, product

import numpy as np
import pytest

from rspipe.ensembles.calibration import Calibration
from rspipe.ensembles.diagnostics import variance_share
from rspipe.ensembles.noise_structure import Across, NoiseStructure, noise_structure

CAP = 3.0
METHODS = (("a", 0), ("a", 1), ("b", 0), ("b", 1))


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


def across(structure: NoiseStructure) -> Across:
    """The two methods' covariance and mixing, where all pairs are of one kind."""
    (only,) = structure.across
    assert (only.first, only.second) == ("a", "b")
    return only


def test_pairs_with_a_seed_in_common_are_never_averaged_with_others() -> None:
    """Equal seeds covary by .8, others by .3: a0 b0 and a1 b1 against a0 b1 and a1 b0."""
    scatter = np.array([[1.0, 0.5, 0.8, 0.3], [0.5, 1.0, 0.3, 0.8], [0.8, 0.3, 1.0, 0.5], [0.3, 0.8, 0.5, 1.0]])
    calibration = Calibration(np.ones((30, 1, 4)), np.tile(scatter, (30, 1, 1, 1)), 200, CAP)
    structure = noise_structure(calibration, METHODS, common_seeds=(0, 1, 0, 1))
    assert structure is not None
    assert {one.common_seed: one.covariance.estimate for one in structure.across} == pytest.approx(
        {False: 0.3, True: 0.8}
    )
    changes = {one.common_seed: one.less_first.estimate for one in structure.across if one.less_first is not None}
    # (2 + 2 c) / 4 of the mixed average, less (2 + 1) / 4.
    assert changes == pytest.approx({False: -0.1, True: 0.15})


@pytest.mark.parametrize("seeds", [None, (None,) * 4, (0, 1, 2, 3), (0, 1, None, None)])
def test_members_are_independent_unless_both_have_the_seed_in_common(seeds: tuple[int | None, ...] | None) -> None:
    structure = noise_structure(two_methods((0.6, 0.4), 0.3), METHODS, common_seeds=seeds)
    assert structure is not None
    assert not across(structure).common_seed


def test_variances_and_covariances_are_averages_over_models_and_images() -> None:
    calibration = two_methods((0.6, 0.4), 0.3, (1.0, 0.8))
    structure = noise_structure(calibration, METHODS)
    assert structure is not None
    scale = calibration.covariance[:, 0, 0, 0].mean()
    assert structure.variance["a"].estimate == pytest.approx(scale)
    assert structure.variance["b"].estimate == pytest.approx(0.8 * scale)
    assert structure.covariance["a"].estimate == pytest.approx(0.6 * scale)
    assert structure.covariance["b"].estimate == pytest.approx(0.4 * scale)
    mixed = across(structure)
    assert mixed.covariance.estimate == pytest.approx(0.3 * scale)
    assert structure.floor["b"].estimate == pytest.approx(0.5)
    # Averages of A and B: (1 + .8 + .6) / 4; of two A: (2 + 1.2) / 4; of two B: (1.6 + .8) / 4.
    assert mixed.less_first is not None
    assert mixed.less_second is not None
    assert mixed.less_first.estimate == pytest.approx((0.6 - 0.8) * scale)
    assert mixed.less_second.estimate == pytest.approx((0.6 - 0.6) * scale, abs=1e-12)
    assert (structure.models, structure.images) == ({"a": 2, "b": 2}, 30)


def test_the_difference_of_mixing_is_that_of_the_variances_of_the_averages() -> None:
    calibration = two_methods((0.6, 0.4), 0.3, (1.0, 0.8))
    structure = noise_structure(calibration, METHODS)
    assert structure is not None
    pooled = calibration.covariance.mean((0, 1))

    def variance(*members: int) -> float:
        w = np.bincount(members, minlength=4) / len(members)
        return float(w @ pooled @ w)

    mixed = across(structure)
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
    assert other.less_first.models.low == pytest.approx(one.less_first.models.low)


def test_a_covariance_within_a_method_never_exceeds_the_variance() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        root = rng.normal(size=(10, 1, 4, 6))
        structure = noise_structure(Calibration(np.ones((10, 1, 4)), root @ np.swapaxes(root, 2, 3), 200, CAP), METHODS)
        assert structure is not None
        assert all(structure.covariance[name].estimate <= structure.variance[name].estimate for name in ("a", "b"))


def test_intervals_are_those_of_a_bootstrap_over_images() -> None:
    """Margins and noise both differ between images: ratios of means, whose error the delta method gives."""
    rng, images = np.random.default_rng(2), 300
    mean = rng.uniform(0.5, 1.5, (images, 1, 4)) + rng.uniform(0, 1, (images, 1, 1))
    root = rng.normal(size=(images, 1, 4, 12)) + rng.normal(size=(images, 1, 1, 12))
    covariance = root @ np.swapaxes(root, 2, 3) / 12
    structure = noise_structure(Calibration(mean, covariance, 200, CAP), METHODS)
    assert structure is not None
    m, s = mean[:, 0], covariance[:, 0]

    def statistics(chosen: np.ndarray) -> list[float]:
        scale = m[chosen].mean(0)
        c = s[chosen].mean(0) / np.outer(scale, scale)
        chi = c[np.ix_([0, 1], [2, 3])].mean()
        v_a, v_b = (c[0, 0] + c[1, 1]) / 2, (c[2, 2] + c[3, 3]) / 2
        return [v_a, c[0, 1], c[0, 1] / v_a, chi, (v_b + 2 * chi - v_a - 2 * c[0, 1]) / 4]

    resampled = np.array([statistics(rng.integers(images, size=images)) for _ in range(2000)])
    mixed = across(structure)
    assert mixed.less_first is not None
    intervals = (
        structure.variance["a"],
        structure.covariance["a"],
        structure.floor["a"],
        mixed.covariance,
        mixed.less_first.models,
    )
    for interval, expected, deviation in zip(intervals, statistics(np.arange(images)), resampled.std(0), strict=True):
        assert interval.estimate == pytest.approx(expected)
        # 2000 resamples know a standard deviation to 1.6 %; first order, of 300 images, is some 3 % off.
        assert (interval.high - interval.low) / 2 / 1.968 == pytest.approx(deviation, rel=0.1)


def test_mixing_is_judged_of_procedures_by_leaving_out_one_seed_after_the_other() -> None:
    """Pseudo-values of the whole statistic, 3 models of a and 2 of b, without one of them at a time."""
    rng, images = np.random.default_rng(3), 40
    names = (("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1))
    mean = np.ones((images, 1, 5)) * rng.uniform(0.8, 1.2, (images, 1, 1))
    root = rng.normal(size=(images, 1, 5, 12)) + rng.normal(size=(images, 1, 1, 12))
    covariance = root @ np.swapaxes(root, 2, 3) / 12
    structure = noise_structure(Calibration(mean, covariance, 200, CAP), names)
    assert structure is not None
    c = covariance.mean((0, 1)) / mean.mean() ** 2

    def mixing(of: set[int]) -> float:
        a, b = sorted(of & {0, 1, 2}), sorted(of & {3, 4})
        average = (c.diagonal()[:, None] + c.diagonal() + 2 * c) / 4
        mixed = np.mean([average[pair] for pair in product(a, b)])
        return float(mixed - np.mean([average[pair] for pair in combinations(a, 2)]))

    everything = {0, 1, 2, 3, 4}
    theta, variance = mixing(everything), 0.0
    for group in ((0, 1, 2), (3, 4)):
        size = len(group)
        pseudo = [size * theta - (size - 1) * mixing(everything - {one}) for one in group]
        variance += np.var(pseudo, ddof=1) / size
    change = across(structure).less_first
    assert change is not None
    assert change.procedures is not None
    assert change.estimate == pytest.approx(theta)
    assert change.procedures.seed_variance == pytest.approx(variance)
    # Two models of b leave no pair of them without one.
    back = across(structure).less_second
    assert back is not None
    assert back.procedures is None


def test_procedures_with_common_seeds_are_not_judged() -> None:
    structure = noise_structure(two_methods((0.6, 0.4), 0.3), METHODS, common_seeds=(0, 1, 0, 1))
    assert structure is not None
    judged = [change for one in structure.across for change in (one.less_first, one.less_second)]
    assert len(judged) == 4
    assert all(change is not None and change.procedures is None for change in judged)


def test_a_member_without_a_positive_mean_margin_is_left_out() -> None:
    calibration = two_methods((0.6, 0.6), 0.6)
    calibration.mean[..., 3] = -0.5
    structure = noise_structure(calibration, METHODS)
    assert structure is not None
    assert structure.models == {"a": 2, "b": 1}
    assert "b" not in structure.covariance
    assert "b" not in structure.floor


def test_without_images_that_are_right_there_is_no_structure() -> None:
    calibration = two_methods((0.6, 0.6), 0.6)
    assert noise_structure(Calibration(-calibration.mean, calibration.covariance, 200, CAP), METHODS) is None


def test_a_method_whose_margins_no_noise_varies_has_no_floor() -> None:
    still = Calibration(np.ones((30, 1, 4)), np.zeros((30, 1, 4, 4)), 200, CAP)
    structure = noise_structure(still, METHODS)
    assert structure is not None
    assert dict(structure.floor) == {}
    assert [one.covariance.estimate for one in structure.across] == [0.0]
    assert np.isnan(variance_share(still, (0.25,) * 4))
