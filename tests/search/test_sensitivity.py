"""Facts about sensitivity to hyper-parameters: trials of functions whose answers are known."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from rspipe.data.spec import ParquetData
from rspipe.records import Trial
from rspipe.search.domains import Choice, Range
from rspipe.search.sensitivity import LEAST_TRIALS, best_so_far, front, importance, responses, sensitivity
from rspipe.search.space import Parameters
from rspipe.search.spec import SearchSpec
from rspipe.training.methods.advmacer import AdvMacer
from rspipe.training.spec import TrainingSpec
from tests.search_builder import search_spec

SPACE = {
    "lbd": Range(low=0.1, high=10.0, log=True),
    "gamma": Range(low=1.0, high=3.0),
    "m": Choice(choices=(2, 4, 8)),
}


def search(**changes: Any) -> SearchSpec:
    content = {
        "method": AdvMacer(name="advmacer", lbd=1.0, gamma=2.0, T=1, m=4),
        "training": TrainingSpec(epochs=9),
        "space": SPACE,
        "trials": 40,
        "seed": 0,
    }
    return search_spec(**{**content, **changes})


def trial(index: int, parameters: Parameters, acr: float, **changes: Any) -> Trial:
    content = {"search": "s", "index": index, "parameters": parameters, "objective": acr, "noisy_accuracy": 0.5}
    content |= {"status": "finished", "message": "", "seconds": 1.0, "passes": 100, "epochs": 9, "watched": {"1": acr}}
    content |= {"error": None, "accuracy": 0.0}
    return Trial(**{**content, **changes})


def drawn(count: int = 40, *, noise: float = 0.0, seed: int = 0) -> list[Trial]:
    """Trials over the whole space whose ACR is -log10(lbd)^2 + gamma / 2, whatever m is."""
    rng = np.random.default_rng(seed)
    trials = []
    for index in range(count):
        u, gamma = rng.uniform(-1, 1), rng.uniform(1, 3)
        point = {"lbd": float(10**u), "gamma": float(gamma), "m": int(rng.choice([2, 4, 8]))}
        trials.append(trial(index, point, float(-(u**2) + gamma / 2 + noise * rng.normal())))
    return trials


def test_importances_say_nothing_on_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    optuna.logging.set_verbosity(optuna.logging.INFO)
    assert importance(search(), drawn(LEAST_TRIALS))
    assert capfd.readouterr() == ("", "")


def test_importances_are_the_shares_of_variance_that_each_explains() -> None:
    # Var(-u^2) = 4 / 45 for u in (-1, 1), and Var(gamma / 2) = 1 / 12 for gamma in (1, 3).
    first, second = 4 / 45, 1 / 12
    shares = importance(search(), drawn(200))
    # The forest is no exact function; it sees 200 points.
    assert shares["lbd"] == pytest.approx(first / (first + second), abs=0.1)
    assert shares["gamma"] == pytest.approx(second / (first + second), abs=0.1)
    assert shares["m"] < 0.02
    assert sum(shares.values()) <= 1 + 1e-9


def test_a_response_is_the_average_over_the_rest_of_the_space() -> None:
    lbd_part, gamma_part = -1 / 3, 1.0
    by_name = {response.name: response for response in responses(search(), drawn())}
    # An interpolation of 40 points of a quadratic.
    expected = {
        "lbd": -(np.log10(by_name["lbd"].values) ** 2) + gamma_part,
        "gamma": lbd_part + by_name["gamma"].values / 2,
        "m": np.full(3, lbd_part + gamma_part),
    }
    for name, response in by_name.items():
        assert response.mean == pytest.approx(expected[name], abs=0.02), name
        assert np.all(response.low <= response.mean)
        assert np.all(response.high >= response.mean)
    assert by_name["lbd"].best == pytest.approx(1.0, rel=0.2)
    assert by_name["gamma"].best == 3.0
    assert by_name["gamma"].swing == pytest.approx(1.0, abs=0.04)
    assert [by_name[name].log for name in ("lbd", "gamma", "m")] == [True, False, False]


def test_the_intervals_of_a_response_cover_the_truth_under_noise() -> None:
    shares = []
    for seed in range(10):
        (_, lbd, _) = responses(search(), drawn(40, noise=0.1, seed=seed))
        truth = -(np.log10(lbd.values) ** 2) + 1.0
        shares.append(float(np.mean((lbd.low <= truth) & (truth <= lbd.high))))
    # 95 % pointwise, less three standard errors of the mean over ten data sets.
    assert np.mean(shares) > 0.95 - 3 * np.std(shares, ddof=1) / math.sqrt(10)


def test_intervals_narrow_with_the_number_of_trials() -> None:
    (_, wide, _), (_, narrow, _) = (responses(search(), drawn(count, noise=0.1)) for count in (15, 60))
    assert np.mean(narrow.high - narrow.low) < np.mean(wide.high - wide.low)


def test_inactive_hyper_parameters_count_with_the_study_files_values() -> None:
    space = {**SPACE, "gamma": Range(low=1.0, high=3.0, when={"m": [2, 8]})}
    of = search(space=space)
    cut = [
        replace(t, parameters={k: v for k, v in t.parameters.items() if k != "gamma" or t.parameters["m"] != 4})
        for t in drawn(20)
    ]
    filled = [replace(t, parameters={"gamma": 2.0, **t.parameters}) for t in cut]
    assert importance(of, cut) == importance(of, filled) != {}
    for ours, theirs in zip(responses(of, cut), responses(of, filled), strict=True):
        assert np.array_equal(ours.mean, theirs.mean)


def test_a_trial_at_zero_of_a_log_scale_is_left_out_of_responses() -> None:
    """Trial 0 has the study file's value, which need not lie in the space: the report ended there."""
    own = trial(99, {"lbd": 0.0, "gamma": 2.0, "m": 4}, 0.3)
    for ours, theirs in zip(responses(search(), [*drawn(), own]), responses(search(), drawn()), strict=True):
        assert np.array_equal(ours.mean, theirs.mean)


def test_nothing_is_said_of_too_few_trials_or_of_trials_that_are_all_alike() -> None:
    few = drawn(LEAST_TRIALS - 1)
    stopped = [replace(t, status="stopped", objective=0.0, index=t.index + 50) for t in drawn(20)]
    alike = [replace(t, objective=0.5) for t in drawn()]
    for trials in ([], few, [*few, *stopped], alike):
        result = sensitivity(search(), trials)
        assert (result.shares, result.responses) == ({}, ())


def test_what_is_kept_for_those_who_ask_again_is_what_the_trials_say() -> None:
    result, trials = sensitivity(search(), drawn(10)), drawn(10)
    assert result.shares == importance(search(), trials)
    assert all(
        np.array_equal(a.mean, b.mean) for a, b in zip(result.responses, responses(search(), trials), strict=True)
    )
    assert sensitivity(search(), trials) is result
    assert sensitivity(search(), trials[:-1]) is not result


def test_the_front_holds_the_trials_that_no_other_beats() -> None:
    of = search(objectives=("acr", "passes"))
    values = [(0.5, 100), (0.6, 100), (0.6, 300), (0.7, 200), (0.4, 50), (0.4, 50), (0.9, 10)]
    trials = [trial(i, {}, acr, passes=passes) for i, (acr, passes) in enumerate(values)]
    trials[-1] = replace(trials[-1], status="diverged")
    assert front(of, trials[::-1]) == (1, 3, 4, 5)
    assert front(search(), trials) == (3,)
    assert front(of, []) == ()


def test_the_best_so_far_counts_the_cost_of_every_trial_but_no_objective_of_unfinished_ones() -> None:
    trials = [trial(0, {}, 0.2), trial(1, {}, 0.9, status="diverged"), trial(2, {}, 0.5), trial(3, {}, 0.3, passes=7)]
    spent, best = best_so_far(trials[::-1])
    assert spent.tolist() == [100, 200, 300, 307]
    assert best.tolist() == [0.2, 0.2, 0.5, 0.5]


def test_where_the_images_are_does_not_matter(tmp_path: Path) -> None:
    files = ParquetData(name="parquet", title="t", folder=str(tmp_path), test="a.parquet", classes=10)
    of_files, trials = search(data=files), drawn(10)
    assert sensitivity(of_files, trials).shares == sensitivity(search(), trials).shares
