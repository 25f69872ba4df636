"""A stage that fails while workers are at it ends them, and gives back at once all that it took of the cluster."""

from dataclasses import replace
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import ray
import ray.tune

from rspipe.data.spec import ParquetData
from rspipe.errors import DataError, StoreError
from rspipe.execution import trainer
from rspipe.execution.board import Progress
from rspipe.execution.resources import Cluster, Resources
from rspipe.stages import train, trials
from rspipe.stages.search import run_searches
from rspipe.stages.train import train_models
from rspipe.storage.store import Store
from rspipe.study.config import StudyConfig
from rspipe.study.loading import load_study
from tests.processes import TINY
from tests.stages.free_cpus import wait_for_cpus

# An epoch of this takes minutes, and all of them longer than anybody waits.
_LONG = (
    *("models.2.method.T=64", "models.2.method.m=64", "training.epochs=1000"),
    *("search.0.method.T=64", "search.0.method.m=64", "search.0.space={lbd={low=1.0,high=2.0}}"),
    "search.0.trial_epochs=1000",
)
_MISSING = ParquetData(name="parquet", title="none", folder="/nowhere", train="a", test="b", classes=10)


@pytest.fixture(scope="module")
def study() -> StudyConfig:
    return load_study(TINY, overrides=_LONG)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "study.json").write_text("{}")
    return Store(tmp_path)


@pytest.fixture
def two(cluster: Cluster) -> Cluster:
    return replace(cluster, resources=Resources(workers=2))


def silent(progress: Progress) -> None:
    del progress


@pytest.mark.usefixtures("uncollected")
def test_a_training_that_fails_ends_the_other_models_at_once(two: Cluster, store: Store, study: StudyConfig) -> None:
    long = study.model_specs[3]
    specs = [long, long.model_copy(update={"data": _MISSING})]
    with pytest.raises(DataError, match="/nowhere") as kept:
        train_models(store, specs, cluster=two, on_progress=silent)
    assert kept.tb is not None
    wait_for_cpus(two)


@pytest.mark.usefixtures("uncollected")
def test_a_search_that_fails_ends_the_other_trials_at_once(two: Cluster, store: Store, study: StudyConfig) -> None:
    (long,) = study.search_specs
    searches = [long, long.model_copy(update={"data": _MISSING})]
    with pytest.raises(DataError, match="/nowhere") as kept:
        run_searches(store, searches, cluster=two, on_progress=silent)
    assert kept.tb is not None
    wait_for_cpus(two)


def test_workers_that_do_not_see_the_run_directory_say_so_and_train_nothing(
    study: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board, told = MagicMock(), list[dict[str, object]]()
    for module in (train, trials):
        monkeypatch.setattr(module, "set_deterministic", lambda: None)
        monkeypatch.setattr(module, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(ray, "get", lambda future: future)
    monkeypatch.setattr(ray, "get_runtime_context", MagicMock())
    monkeypatch.setattr(ray.tune, "report", told.append)
    monkeypatch.setattr(trainer, "world_rank", lambda: 0)
    shared = {"board": board, "run_dir": str(tmp_path), "resources": Resources(), "decoders": 1}
    work = trials.Work(which=0, index=0, piece=0, parameters={})
    trials.run_in_tune({"work": work}, searches=study.search_specs, **shared)
    train.train_loop({"specs": study.model_specs, "group": 0, "together": 1, **shared})
    failures = [call.args[0] for call in board.fail.remote.call_args_list]
    assert [type(one) for one in failures] == [StoreError, StoreError]
    assert "not visible" in str(failures[0])
    assert "choose one on storage that all nodes share" in str(failures[1])
    assert told == [{"ended": True, "record": ""}]
    board.take.remote.assert_not_called()
    board.leave.remote.assert_called_once()
