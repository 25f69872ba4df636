"""Searches on Tune: what they propose, stop and record is what one process finds; what is done is never done again."""

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import ray.tune

from pipelines.bench.bench_search import trials_here
from rspipe.data.sources import load_dataset
from rspipe.errors import ClusterError, ModelError
from rspipe.execution.board import Progress
from rspipe.execution.resources import Cluster, Resources
from rspipe.records import Trial
from rspipe.stages.search import run_searches
from rspipe.storage.opening import open_store
from rspipe.storage.store import Store
from rspipe.study.config import StudyConfig
from rspipe.study.loading import load_study
from tests.processes import TINY

TPE = (
    "data.validation=40",
    "search.0.algorithm={name='tpe', startup=2}",
    "search.0.early_stopping={grace=1, reduction=2}",
    "search.0.trial_epochs=3",
    "search.0.space={lbd={low=0.5,high=4.0,log=true},'training.lr'={low=0.0001,high=0.5,log=true}}",
)
SEVERAL = (
    "data.validation=40",
    "search.0.algorithm={name='nsga2', population=2}",
    "search.0.objectives=['acr', 'accuracy', 'passes']",
    "search.0.trial_epochs=1",
    "search.0.sigma=[0.25, 0.5]",
)


def timeless(trials: tuple[Trial, ...] | list[Trial]) -> list[Trial]:
    return [replace(trial, seconds=0.0) for trial in trials]


def silent(progress: Progress) -> None:
    pass


@pytest.fixture
def alone(cluster: Cluster) -> Cluster:
    """Return a cluster that runs one trial at a time."""
    return replace(cluster, resources=Resources(workers=1))


def run(study: StudyConfig, cluster: Cluster, run_dir: Path) -> Store:
    with open_store(run_dir, study, source="", environment={}) as store:
        run_searches(store, study.search_specs, cluster=cluster, on_progress=silent)
        return store


def test_trials_that_are_added_are_those_that_one_process_finds_and_none_is_repeated(
    alone: Cluster, tmp_path: Path
) -> None:
    few, many = (load_study(TINY, overrides=[*TPE, f"search.0.trials={count}"]) for count in (4, 7))
    (search,) = many.search_specs
    expected = list(islice(trials_here(search, load_dataset(many.data)), 7))
    assert {"finished", "stopped"} <= {trial.status for trial in expected}
    store = run(few, alone, tmp_path / "run")
    folder = store.run_dir.local_part / "search" / search.id
    assert timeless(store.trials(search.id)) == timeless(expected[:4])
    before = {path: path.stat().st_mtime_ns for path in folder.glob("trial-*.json")}
    # What a kill leaves behind: trials without a result.
    (folder / "result.json").unlink()
    run(many, alone, tmp_path / "run")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert timeless(store.trials(search.id)) == timeless(expected)
    result = store.search_result(search.id, trials=7)
    assert result is not None
    assert result.objective == max(trial.objective for trial in expected)
    assert store.search_result(search.id, trials=8) is None


def test_no_two_searches_on_tune_share_a_name(alone: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []

    class NeverFits:
        """Tune looks a function up by name whenever it starts a worker, and takes the last of that name."""

        def __init__(self, function: Callable[..., None], **_: object) -> None:
            names.append(function.__name__)

        def fit(self) -> None:
            raise ClusterError("nothing fits")

    monkeypatch.setattr(ray.tune, "Tuner", NeverFits)
    study = load_study(TINY)
    for folder in ("a", "b"):
        with pytest.raises(ClusterError, match="nothing fits"):
            run(study, alone, tmp_path / folder)
    assert len(set(names)) == 2


def test_searches_for_several_objectives_run_side_by_side(cluster: Cluster, tmp_path: Path) -> None:
    study = load_study(TINY, overrides=SEVERAL)
    store = run(study, cluster, tmp_path / "run")
    for search in study.search_specs:
        trials = store.trials(search.id)
        assert [trial.index for trial in trials] == [0, 1, 2, 3]
        for trial in trials:
            assert trial.passes == trials[0].passes * trial.parameters["m"] // 2
            assert 0 < trial.accuracy <= 1
            assert trial.error is not None


def test_a_search_in_which_no_trial_reaches_anything_says_so(tmp_path: Path) -> None:
    nowhere = Cluster("nowhere", (), Resources())
    study = load_study(TINY, overrides=[*TPE, "search.0.trials=2"])
    (search,) = study.search_specs
    with open_store(tmp_path / "run", study, source="", environment={}) as store:
        for index, status in enumerate(("diverged", "stopped")):
            content = {"search": search.id, "index": index, "parameters": {}, "objective": 0.0, "noisy_accuracy": 0.1}
            content |= {"status": status, "message": "", "seconds": 1.0, "passes": 1}
            content |= {"error": None, "accuracy": 0.0, "epochs": 1, "watched": {}}
            store.save_trial(Trial.from_json(content))
        with pytest.raises(ModelError, match=r"no trial certified a single .* \(1 diverged, 1 stopped\); lower"):
            run_searches(store, study.search_specs, cluster=nowhere, on_progress=silent)
