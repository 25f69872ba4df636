"""Facts about log-loss weights, and about the choice among weightings that the study's `auto` stands for."""

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest

from rspipe.arrays import FloatArray
from rspipe.ensembles import choice, weights_sween
from rspipe.ensembles.calibration import Calibration
from rspipe.ensembles.choice import Candidate, choose_weights, cross_fitted, prunable
from rspipe.ensembles.spec import Weighting
from rspipe.ensembles.weights import solve_weights
from rspipe.ensembles.weights_acr import solve_acr
from rspipe.ensembles.weights_sween import solve_sween
from rspipe.errors import SolverError
from tests.ensembles.test_weights_acr import CAP, problem, simplex


def probabilities(seed: int, k: int, samples: int = 500) -> FloatArray:
    """Probabilities of the label by members of different skill that fail on different samples."""
    rng = np.random.default_rng(seed)
    return rng.beta(rng.uniform(1, 3, k), 1, (samples, k))


def calibration(
    seed: int = 0, k: int = 3, *, images: int = 60, weak: float | None = None, draws: int = 100
) -> Calibration:
    """Members that are alike but for the last, whose margins are `weak` times as large under the same noise."""
    rng = np.random.default_rng(seed)
    hardness = rng.normal(1, 0.5, (images, 1, 1)) + rng.exponential(0.4, (images, 3, 1))
    mean = hardness + 0.05 * rng.normal(size=(images, 3, k))
    mean[..., -1] *= 1 if weak is None else weak
    covariance = np.tile(0.3 * (0.6 + 0.4 * np.eye(k)), (images, 3, 1, 1))
    return Calibration(mean, covariance, draws, CAP, rng.uniform(0.2, 0.9, (images, draws, k)))


def log_loss(w: FloatArray, q: FloatArray) -> float:
    return float(-np.log(q @ w).mean())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("k", "steps"), [(2, 1000), (3, 50)])
def test_no_point_of_the_simplex_has_a_smaller_log_loss(seed: int, k: int, steps: int) -> None:
    q = probabilities(seed, k)
    solution = solve_sween(q)
    assert solution.gap <= 1e-6
    # And the rounding of means below 1.
    rounding = 4 * np.finfo(np.float64).eps
    assert solution.objective <= min(log_loss(w, q) for w in simplex(k, steps)) + solution.gap + rounding
    assert solution.objective == pytest.approx(log_loss(solution.weights, q), rel=1e-12)
    assert solution.uniform_objective == pytest.approx(log_loss(np.full(k, 1 / k), q), rel=1e-12)


@pytest.mark.parametrize("k", [2, 8, 30])
def test_log_loss_weights_satisfy_the_optimality_conditions(k: int) -> None:
    """mean(q_l / w'q) is 1 where a member has weight, and at most 1 elsewhere."""
    q = probabilities(k, k)
    solution = solve_sween(q)
    share = (q / (q @ solution.weights)[:, None]).mean(0)
    assert share.max() <= 1 + 1e-6
    # Complementary slackness: sum of w (1 - share) is 0 whatever w is, up to the gap.
    np.testing.assert_allclose(solution.weights * (1 - share), 0, atol=1e-5)
    assert solution.weights.sum() == pytest.approx(1, abs=1e-12)
    assert solution.weights.min() >= 0


def test_a_log_loss_far_from_its_optimum_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_sween, "_STEPS", 1)
    with pytest.raises(SolverError, match=r"SLSQP ended .* from optimal"):
        solve_sween(probabilities(0, 3))


def test_the_gap_bounds_the_excess_of_the_log_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    q = probabilities(1, 3)
    best = solve_sween(q).objective
    monkeypatch.setattr(weights_sween, "_STEPS", 1)
    poor = solve_sween(q, largest_gap=np.inf)
    assert 0 < poor.objective - best <= poor.gap


@pytest.mark.parametrize("seed", range(3))
def test_samples_on_which_all_members_but_one_fail_are_no_obstacle(seed: int) -> None:
    q = probabilities(seed, 8, samples=5000)
    q[np.random.default_rng(seed).random(q.shape) < 0.3] = 0
    alone = (q > 0).sum(1) == 1
    assert alone.any()
    solution = solve_sween(q)
    assert solution.gap <= 1e-6
    assert np.all(q[alone] @ solution.weights > 0)


def test_log_loss_weights_follow_a_permutation_and_ignore_a_duplicate() -> None:
    q = probabilities(2, 4)
    solution = solve_sween(q)
    order = [3, 1, 0, 2]
    np.testing.assert_allclose(solve_sween(q[:, order]).weights, solution.weights[order], atol=1e-3)
    assert solve_sween(q[:, [0, 1, 2, 3, 3]]).objective == pytest.approx(solution.objective, abs=1e-6)


def test_a_member_that_never_gives_the_label_any_probability_has_no_weight() -> None:
    q = probabilities(3, 3)
    q[:, 1] = 0
    assert solve_sween(q).weights[1] < 1e-6


def test_samples_that_all_members_fail_on_are_no_obstacle() -> None:
    q = probabilities(4, 2)
    q[:5] = 0
    assert np.isfinite(solve_sween(q).objective)


def test_fewer_samples_than_members_have_a_solution() -> None:
    solution = solve_sween(probabilities(5, 6, samples=3))
    assert solution.gap <= 1e-4


@pytest.mark.parametrize("q", [np.full((2, 2), np.nan), np.full((2, 2), 1.5), [[-0.1, 0.5]]])
def test_what_is_no_probability_is_refused(q: Any) -> None:
    with pytest.raises(ValueError, match=r"label_probability must lie in \[0, 1\]"):
        solve_sween(q)


@pytest.mark.parametrize("q", [np.zeros((0, 2)), np.zeros(3)])
def test_without_samples_there_is_no_log_loss(q: Any) -> None:
    with pytest.raises(ValueError, match=r"label_probability must be \[..., k\] with samples"):
        solve_sween(q)


def test_every_weighting_of_a_study_gives_weights_on_the_simplex() -> None:
    for weighting in get_args(Weighting):
        solution = choose_weights(weighting, calibration(weak=0.9))
        assert solution.weights.min() >= 0
        assert solution.weights.sum() == pytest.approx(1)


def test_the_programs_are_those_of_their_modules() -> None:
    calibrated = calibration(weak=0.8)
    calibrated.mean[:5] *= -1
    together = (calibrated.mean / np.sqrt((calibrated.mean**2).mean((0, 1)))).mean(-1)
    strongest, rows = together.argmin(1), np.arange(len(calibrated.mean))
    pairs = calibrated.mean[rows, strongest], calibrated.covariance[rows, strongest]
    right = together.min(1) > 0
    assert not right.all()
    expected = {
        "esbrs_ratio": solve_weights(pairs[0][right], pairs[1][right]),
        "esbrs_paper": solve_weights(
            calibrated.mean, calibrated.covariance, method="esbrs_paper", draws=calibrated.draws
        ),
        "esbrs_acr": solve_acr(calibrated.mean, calibrated.covariance, cap=CAP),
        "sween": solve_sween(calibrated.label_probability if calibrated.label_probability is not None else []),
    }
    for weighting, solution in expected.items():
        assert np.array_equal(choose_weights(weighting, calibrated).weights, solution.weights)  # type: ignore[arg-type]


def test_an_unknown_weighting_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown weighting 'swen'; did you mean 'sween'"):
        choose_weights("swen", calibration())  # type: ignore[arg-type]


def test_members_that_are_alike_are_averaged_and_the_record_says_why() -> None:
    solution = choose_weights("auto", calibration(k=2))
    assert solution.weights.tolist() == [0.5, 0.5]
    assert solution.status.startswith("uniform: best candidate esbrs_")
    assert solution.status.endswith("is within 2 standard errors")
    assert solution.objective == solution.uniform_objective


def test_a_member_that_is_clearly_weak_is_found_out() -> None:
    calibrated = calibration(weak=-0.2)
    solution = choose_weights("auto", calibrated)
    assert solution.weights[2] < 0.05
    assert solution.objective > solution.uniform_objective
    assert solution.objective == pytest.approx(calibrated.radii(solution.weights).mean())
    assert "cross-fitted gain +" in solution.status
    assert prunable(calibrated).tolist() == [False, False, True]


def test_auto_says_how_many_images_can_show_no_gain() -> None:
    """Margins that are positive at all 50 draws of a third of the images: their radii end at Phi^-1(50.5 / 51)."""
    calibrated = calibration(k=2)
    margins = np.random.default_rng(4).normal(1.0, 0.8, (60, 50, 3, 2))
    margins[:20] = np.abs(margins[:20])
    margins[20:, 0] = -np.abs(margins[20:, 0])
    calibrated = replace(calibrated, margins=margins)
    status = choose_weights("auto", calibrated).status
    assert calibrated.saturated(np.full(2, 1 / 2)) == pytest.approx(1 / 3)
    assert "; 33 % of the images end at 2.33 σ, where none can gain)" in status


def test_candidates_are_judged_on_images_that_they_were_not_fitted_to() -> None:
    """The gain is the mean over quarters of what weights fitted to the other three gain there."""
    calibrated = calibration(k=2, weak=0.8, images=40)
    fold, uniform = np.arange(40) % 4, np.full(2, 1 / 2)
    gains = np.zeros(40)
    for held_out in range(4):
        here = fold == held_out
        weights = solve_acr(calibrated.mean[~here], calibrated.covariance[~here], cap=CAP).weights
        judged = calibrated.of_images(here)
        gains[here] = judged.radii((weights + uniform) / 2) - judged.radii(uniform)
    (candidate,) = [one for one in cross_fitted(calibrated) if one.name == "esbrs_acr halfway to uniform"]
    assert candidate.gain == pytest.approx(gains.mean())
    assert candidate.error == pytest.approx(gains.std(ddof=1) / np.sqrt(40))


def test_in_simulations_without_any_difference_auto_seldom_leaves_uniform_weights() -> None:
    """The best of four correlated candidates exceeds two standard errors in at most 4 x 2.3 % of cases by chance."""
    chosen = sum(
        choose_weights("auto", calibration(seed, 2, images=24)).status.startswith("esbrs") for seed in range(6)
    )
    # P(Binomial(6, 0.092) > 3) < 0.001.
    assert chosen <= 3


def test_with_too_few_images_to_judge_auto_is_uniform() -> None:
    solution = choose_weights("auto", calibration(weak=-0.2, images=7))
    assert solution.status == "uniform: fewer than 8 calibration images"


def test_members_that_get_nothing_right_are_averaged_by_auto() -> None:
    calibrated = calibration()
    wrong = Calibration(-calibrated.mean, calibrated.covariance, calibrated.draws, CAP)
    assert choose_weights("auto", wrong).status == "uniform: no candidate has a solution"


@pytest.mark.parametrize("weighting", ["esbrs_ratio", "esbrs_acr"])
def test_fewer_than_ten_samples_per_member_draw_the_weights_to_uniform(weighting: Any) -> None:
    """9 images of 2 draws are 18 samples for 3 members, of 30: 0.6 of the solution and 0.4 of 1/3."""
    few, many = (calibration(images=9, weak=0.3, draws=draws) for draws in (2, 100))
    solution = choose_weights(weighting, many).weights
    shrunk = choose_weights(weighting, few)
    np.testing.assert_allclose(shrunk.weights, 0.6 * solution + 0.4 / 3, atol=1e-9)
    assert "drawn to uniform as 18 samples are few for 3 members" in shrunk.status


@pytest.mark.parametrize("weighting", ["esbrs_ratio", "esbrs_acr"])
@pytest.mark.parametrize("factor", [0.05, 30.0])
def test_a_member_with_other_logits_gets_the_weight_that_makes_up_for_it(weighting: Any, factor: float) -> None:
    """From images to weights: neither which pairs count nor where an ascent starts depends on a member's scale."""
    calibrated = calibration(weak=0.7)
    d = np.array([1.0, factor, 1.0])
    scaled = Calibration(calibrated.mean * d, calibrated.covariance * np.outer(d, d), calibrated.draws, CAP)
    expected, solution = choose_weights(weighting, calibrated), choose_weights(weighting, scaled)
    back = solution.weights * d
    np.testing.assert_allclose(back / back.sum(), expected.weights, atol=0.01)
    assert solution.objective == pytest.approx(expected.objective, rel=1e-4)


def test_auto_goes_by_what_is_counted_and_not_by_gaussian_margins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two members of mean .8 and deviation .3 or .45 at each image; one is wrong at a tenth of the draws, in outliers.

    Gaussian margins prefer the first, mean / sd 2.7 to 1.8. Counted, the second is never wrong.
    """
    rng, images, draws = np.random.default_rng(0), 40, 100
    outlier = np.arange(draws) % 10 == 0
    first = np.where(outlier, -0.1, 0.9) + rng.uniform(-0.01, 0.01, (images, draws))
    second = rng.uniform(0.1, 1.5, (images, draws))
    samples = np.stack([first, second], axis=-1)[:, :, None]
    deviation = samples - samples.mean(1, keepdims=True)
    covariance = np.einsum("idck,idcl->ickl", deviation, deviation) / (draws - 1)
    moments = Calibration(samples.mean(1), covariance, draws, CAP)
    counted = Calibration(samples.mean(1), covariance, draws, CAP, margins=samples)
    gains: list[dict[str, float]] = []

    def noted(calibrated: Calibration) -> tuple[Candidate, ...]:
        candidates = cross_fitted(calibrated)
        gains.append({one.name: one.gain for one in candidates})
        return candidates

    monkeypatch.setattr(choice, "cross_fitted", noted)
    by_moments, by_counts = (choose_weights("auto", one).weights for one in (moments, counted))
    # Solved weights are 2 to 1 for the first, whose outliers the second outweighs at uniform weights.
    assert gains[0]["esbrs_ratio"] > 0.01
    assert gains[1]["esbrs_ratio"] < -0.01
    assert by_moments[0] > 0.6
    assert by_counts.tolist() == [0.5, 0.5]


def test_log_loss_weights_need_probabilities() -> None:
    calibrated = calibration()
    with pytest.raises(ValueError, match="probabilities of the label, which were not kept"):
        choose_weights("sween", Calibration(calibrated.mean, calibrated.covariance, calibrated.draws, CAP))


@pytest.mark.parametrize("weighting", ["esbrs_ratio", "esbrs_paper", "esbrs_acr"])
def test_nan_is_refused_by_every_program(weighting: Any) -> None:
    mean, covariance = problem(0, 3)
    covariance[0, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="a member returned NaN"):
        choose_weights(weighting, Calibration(mean, covariance[:, :1].repeat(4, 1), 100, CAP))
