"""Proposals of the algorithms that learn from trials: an interrupted search goes on as it would have."""

import math
from collections.abc import Iterable
from typing import Any

import pytest
from optuna.storages import InMemoryStorage

from rspipe.records import Trial
from rspipe.search.domains import Choice, Domain, Range
from rspipe.search.sampler import managed_indices, objective_values, open_study, suggest, tell
from rspipe.search.space import Parameters
from rspipe.search.spec import NSGA2, TPE, SearchSpec
from rspipe.training.methods.advmacer import AdvMacer
from rspipe.training.spec import TrainingSpec
from tests.search_builder import search_spec

SPACE: dict[str, Domain] = {
    "lbd": Range(low=0.5, high=8.0, log=True),
    "T": Range(low=1, high=3),
    "m": Choice(choices=(2, 4, 8)),
    "warmup": Range(low=1, high=9, when={"T": {"low": 2}}),
    "training.lr": Range(low=0.01, high=0.4, log=True),
}
ONE = {"algorithm": TPE(name="tpe", startup=4)}
SEVERAL = {"algorithm": NSGA2(name="nsga2", population=4), "objectives": ("acr", "passes")}


def search(**changes: Any) -> SearchSpec:
    content = {
        "method": AdvMacer(name="advmacer", lbd=2.0, T=2, m=4, warmup=3),
        "training": TrainingSpec(epochs=3),
        "space": SPACE,
        "trials": 24,
        "seed": 3,
    }
    return search_spec(**{**content, **changes})


def ended(of: SearchSpec, index: int, parameters: Parameters) -> Trial:
    """Return a trial whose ACR is best at lbd = e and a learning rate of 0.1; every fifth was stopped."""
    acr = 2 - (math.log(parameters["lbd"]) - 1) ** 2 - math.log(parameters["training.lr"] / 0.1) ** 2
    return Trial(
        search=of.id,
        index=index,
        parameters=parameters,
        objective=acr,
        noisy_accuracy=0.5,
        status="stopped" if index % 5 == 3 else "finished",
        message="",
        seconds=1.0,
        passes=int(100 * parameters["m"] * parameters["T"]),
        error=None,
        accuracy=0.0,
        epochs=3,
        watched={"1": acr / 2, "2": acr},
    )


def go_on(of: SearchSpec, trials: Iterable[Trial], count: int) -> list[Trial]:
    """Return the trials of a search that goes on from some."""
    done = list(trials)
    study, sampler = open_study(of, done, storage=InMemoryStorage())
    for _ in range(count - len(done)):
        proposal = study.ask()
        done.append(ended(of, sampler.index(proposal.number), suggest(of, proposal)))
        tell(of, study, proposal, done[-1])
    return done


@pytest.mark.parametrize(
    "changes", [ONE, SEVERAL, {**SEVERAL, "algorithm": ONE["algorithm"]}], ids=["tpe", "nsga2", "motpe"]
)
def test_a_search_that_was_interrupted_proposes_what_it_would_have(changes: dict[str, Any]) -> None:
    of = search(**changes)
    whole = go_on(of, [], 24)
    assert [trial.index for trial in whole] == list(range(24))
    for cut in (1, 5, 13):
        # Whatever order the store lists them in.
        assert go_on(of, whole[:cut][::-1], 24)[cut:] == whole[cut:]


def test_no_trial_is_proposed_twice_and_lost_ones_are_made_up_for() -> None:
    of = search(**ONE)
    whole = go_on(of, [], 10)
    left = [trial for trial in whole if trial.index not in (2, 5)]
    again = go_on(of, left, 10)
    assert sorted(trial.index for trial in again) == list(range(10))
    assert [trial.index for trial in again[-2:]] == [2, 5]
    drawn = [tuple(trial.parameters.items()) for trial in again]
    assert len(set(drawn)) == 10


def test_the_study_files_own_settings_come_first() -> None:
    own = {"T": 2, "lbd": 2.0, "m": 4, "training.lr": 0.1, "warmup": 3}
    (first,) = go_on(search(**ONE), [], 1)
    assert (first.index, first.parameters) == (0, own)


@pytest.mark.parametrize("changes", [ONE, SEVERAL], ids=["tpe", "nsga2"])
def test_the_study_files_own_settings_are_trial_0_also_where_others_ended_before(changes: dict[str, Any]) -> None:
    of = search(**changes)
    whole = go_on(of, [], 3)
    own = whole[0].parameters
    again = go_on(of, whole[1:], 3)
    assert (again[2].index, again[2].parameters) == (0, own)


@pytest.mark.parametrize("changes", [ONE, SEVERAL], ids=["tpe", "nsga2"])
def test_proposals_lie_in_the_space_and_meet_its_conditions(changes: dict[str, Any]) -> None:
    for trial in go_on(search(**changes), [], 24):
        assert all(SPACE[name].holds(value) for name, value in trial.parameters.items())
        assert isinstance(trial.parameters["T"], int)
        assert ("warmup" in trial.parameters) == (trial.parameters["T"] >= 2)


def test_another_seed_proposes_other_trials() -> None:
    drawn = [go_on(search(**ONE, seed=seed), [], 4) for seed in (0, 1)]
    assert all(a.parameters != b.parameters for a, b in zip(drawn[0][1:], drawn[1][1:], strict=True))


def test_it_learns() -> None:
    later = [trial.objective for trial in go_on(search(**ONE), [], 40)[20:] if trial.status == "finished"]
    drawn = [trial.objective for trial in go_on(search(algorithm=TPE(name="tpe", startup=40)), [], 40)[1:]]
    assert sum(later) / len(later) > sum(drawn) / len(drawn)


def test_objectives_are_those_of_the_search_in_its_order() -> None:
    of = search(objectives=("acr", "accuracy", "passes"))
    trial = ended(of, 0, {"lbd": math.e, "training.lr": 0.1, "m": 2, "T": 3})
    assert objective_values(of, trial) == (2.0, 0.0, 600)


@pytest.mark.parametrize(("taken", "first"), [([], [0, 1, 2]), ([1, 3], [1, 3, 0, 2, 4]), ([2, 0, 1], [0, 1, 2, 3])])
def test_indices_that_are_taken_come_before_those_that_are_free(taken: list[int], first: list[int]) -> None:
    indices = managed_indices(search(), taken)
    assert [next(indices) for _ in first] == first


def test_an_algorithm_that_learns_nothing_has_no_sampler() -> None:
    with pytest.raises(ValueError, match="sobol learns nothing from trials"):
        open_study(search(), [], storage=InMemoryStorage())
