"""The trials that Tune is given to run and to stop, and the use of its answers, without Tune."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from ray.tune.search import Searcher

from rspipe.records import Trial
from rspipe.search.domains import Choice, Range
from rspipe.search.sampler import contains_own
from rspipe.search.spec import SearchSpec
from rspipe.search.trials import WATCHED, stopped_trial
from rspipe.stages.tune import GivenUp, Proposals, _Learning
from rspipe.storage.store import Store
from rspipe.study.loading import load_study
from tests.processes import TINY
from tests.search import test_sampler as sampled

ROOM = [2]
"""How many trials the cluster has room for."""


class Counting(Store):
    """A run directory that knows how often it was written to."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__(run_dir)
        self.saved: list[tuple[int, str]] = []

    def save_trial(self, trial: Trial) -> None:
        self.saved.append((trial.index, trial.status))
        super().save_trial(trial)


@pytest.fixture
def store(tmp_path: Path) -> Counting:
    return Counting(tmp_path)


@pytest.fixture
def ends() -> list[int]:
    return []


@pytest.fixture
def proposals(store: Counting, ends: list[int]) -> Proposals:
    searches = load_study(TINY).search_specs
    return Proposals(store, searches, on_end=lambda piece, _: ends.append(piece), room=lambda: ROOM[0])


def look(epoch: int) -> dict[str, Any]:
    history = [{"epoch": 1 + done, WATCHED: 0.25, "validation_noisy_accuracy": 0.5} for done in range(epoch)]
    return {"ended": False, "epoch": epoch, "history": history, "passes": 10, "seconds": 1.0, WATCHED: 0.25}


def ended(proposals: Proposals, trial_id: str) -> dict[str, Any]:
    (search,) = load_study(TINY).search_specs
    work = proposals._running[trial_id]
    trial = stopped_trial(search, work.index, work.parameters, look(1))
    content = {**trial.to_json(), "status": "finished", "message": "", "objective": 0.1}
    return {"ended": True, "record": json.dumps(content)}


def test_the_record_of_a_trial_is_written_once_and_by_the_driver(
    proposals: Proposals, store: Counting, ends: list[int]
) -> None:
    proposals.suggest("a")
    answer = ended(proposals, "a")
    proposals.on_trial_result("a", look(1))
    assert store.saved == []
    # Tune repeats the last result of a trial that returns.
    for _ in range(2):
        proposals.on_trial_result("a", answer)
    proposals.on_trial_complete("a", answer)
    # What is said behind its end is not heard.
    proposals.on_trial_result("a", answer)
    proposals.on_trial_complete("a", look(1))
    assert store.saved == [(0, "finished")]
    assert ends == [0]


def test_a_trial_that_is_stopped_is_recorded_when_tune_has_done_so(proposals: Proposals, store: Counting) -> None:
    proposals.suggest("a")
    proposals.on_trial_result("a", look(1))
    proposals.on_trial_complete("a", look(1))
    assert store.saved == [(0, "stopped")]


@pytest.mark.parametrize("error", [True, False])
def test_a_trial_that_fails_has_no_record(proposals: Proposals, store: Counting, error: bool) -> None:
    proposals.suggest("a")
    proposals.on_trial_complete("a", None if error else {"ended": True, "record": ""}, error=error)
    assert store.saved == []


def test_an_experiment_is_given_up_in_every_copy_of_what_says_so() -> None:
    end = GivenUp()
    copied = copy.deepcopy(end)
    assert not copied.stop_all()
    end.give_up()
    assert copied.stop_all()
    assert not copied("a trial", {})


def test_as_many_trials_are_proposed_as_there_is_room_for_and_none_twice(
    proposals: Proposals, ends: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def index(trial_id: str) -> int | None:
        proposal = proposals.suggest(trial_id)
        return None if proposal is None else int(proposal["work"].index)

    assert [index("a"), index("b"), index("c")] == [0, 1, None]
    proposals.on_trial_complete("a", error=True)
    assert [index("c"), index("d")] == [2, None]
    # A node has joined.
    monkeypatch.setattr(f"{__name__}.ROOM", [3])
    assert index("d") == 3
    assert proposals.suggest("e") == Searcher.FINISHED
    assert ends == [0]


def go_on(of: SearchSpec, trials: list[Trial], count: int) -> list[Trial]:
    """Return the trials of a search that Tune goes on with from some."""
    done, source = list(trials), _Learning(of, trials)
    for number in range(len(done), count):
        index, parameters = source.suggest(str(number))
        done.append(sampled.ended(of, index, parameters))
        for epoch, value in done[-1].watched.items():
            source.watched(str(number), int(epoch), value)
        source.ended(str(number), done[-1])
    return done


def test_own_settings_outside_of_the_space_come_first_all_the_same() -> None:
    space = {**sampled.SPACE, "lbd": Range(low=3.0, high=8.0), "m": Choice(choices=(2, 8))}
    of = sampled.search(**sampled.ONE, space=space)
    assert not contains_own(of)
    done = go_on(of, [], 8)
    assert (done[0].index, done[0].parameters["lbd"], done[0].parameters["m"]) == (0, 2.0, 4)
    assert [trial.index for trial in done] == list(range(8))
    assert go_on(of, done[:3], 8) == done
