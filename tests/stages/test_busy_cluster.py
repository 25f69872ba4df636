"""Stages of a cluster whose CPUs others hold, before and after a stage has begun: who waits for what, and the end."""

import gc
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import ray

from rspipe.data.sources import load_dataset
from rspipe.errors import ClusterError
from rspipe.execution import resources
from rspipe.execution.board import Progress, make_board
from rspipe.execution.resources import Cluster
from rspipe.stages.certify import certify_classifiers
from rspipe.stages.search import run_searches
from rspipe.stages.train import train_models, train_one
from rspipe.stages.weigh import weigh_ensembles
from rspipe.storage.files import write_record
from rspipe.storage.store import Store
from rspipe.study.config import StudyConfig
from rspipe.study.loading import load_study
from tests.processes import TINY
from tests.stages.free_cpus import wait_for_cpus

Stage = Callable[[Cluster], object]


def silent(progress: Progress) -> None:
    del progress


@pytest.fixture(scope="module")
def study() -> StudyConfig:
    return load_study(TINY, overrides=["training.epochs=1", "certify.images=4", "weigh.images=4"])


@pytest.fixture(scope="module")
def store(study: StudyConfig, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A run directory with two models, of which nothing else is done."""
    store = Store(tmp_path_factory.mktemp("busy") / "run")
    write_record(store.run_dir / "study.json", {})
    for spec in study.model_specs[:2]:
        train_one(store, spec, load_dataset(study.data))
    return store


@pytest.fixture
def stages(study: StudyConfig, store: Store) -> dict[str, Stage]:
    specs = study.model_specs[:2]
    models = [store.existing_model(spec.id) for spec in specs]
    ensembles = study.ensemble_specs(specs)[:1]
    return {
        "training": lambda here: train_models(store, study.model_specs[2:3], cluster=here, on_progress=silent),
        "the search": lambda here: run_searches(store, study.search_specs, cluster=here, on_progress=silent),
        "weigh": lambda here: weigh_ensembles(store, study, ensembles, cluster=here, on_progress=silent),
        "certify": lambda here: certify_classifiers(store, study, models, [], cluster=here, on_progress=silent),
    }


@pytest.fixture
def take(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Return a function with which others take every CPU, and keep it for longer than anybody waits here."""
    seconds = {"_FREED_SECONDS": 3.0, "_SETTLED_SECONDS": 1.0, "_SILENT_SECONDS": 1.0, "_NODE_POLL_SECONDS": 0.2}
    for name, value in seconds.items():
        monkeypatch.setattr(resources, name, value)
    holder, held = ray.remote(num_cpus=2)(Holder), list[Any]()

    def take() -> None:
        held.append(holder.remote())
        ray.get(held[-1].here.remote())

    yield take
    for one in held:
        ray.kill(one)
    wait_for_cpus(cluster)


class Holder:
    """Somebody else's actor."""

    def here(self) -> bool:
        """Return once it has what it takes."""
        return True


def names(stage: str) -> str:
    return "the pass over the images" if stage in ("weigh", "certify") else stage


@pytest.mark.parametrize("stage", ["training", "the search", "weigh", "certify"])
def test_a_stage_says_who_waits_for_what_and_ends_with_a_line(
    stage: str, stages: dict[str, Stage], cluster: Cluster, take: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    take()
    expected = (
        rf"{names(stage)} waited 0\.05 min for 1 CPUs .*: others hold 2 of 2 CPUs; wait longer with --resources\."
    )
    with pytest.raises(ClusterError, match=expected):
        stages[stage](cluster)
    (line,) = [one for one in caplog.messages if "waits for" in one]
    assert line.startswith(f"{names(stage)} waits for 1 CPUs and 0 GPUs per worker: others hold 2 of 2 CPUs, for ")


@pytest.mark.parametrize("stage", ["training", "the search", "weigh"])
def test_a_stage_that_has_begun_says_it_too(
    stage: str,
    stages: dict[str, Stage],
    cluster: Cluster,
    take: Callable[[], None],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free = Cluster.free

    def free_for_a_moment(*given: Any, **named: Any) -> int:
        room = free(*given, **named)
        monkeypatch.setattr(Cluster, "free", free)
        take()
        return room

    monkeypatch.setattr(Cluster, "free", free_for_a_moment)
    with pytest.raises(ClusterError, match=rf"{names(stage)} waited 0\.05 min for 1 CPUs .*: others hold 2 of 2 CPUs;"):
        stages[stage](cluster)
    assert [one.partition(" waits ")[0] for one in caplog.messages if "waits for" in one] == [names(stage)]


def test_a_desk_outlives_the_first_of_its_boards(cluster: Cluster) -> None:
    assert cluster.nodes
    first = make_board(1)
    second = make_board(2)
    del first
    gc.collect()
    # Ray ends an actor that nobody knows any more within milliseconds.
    time.sleep(0.5)
    assert ray.get(second.left.remote()) == (2, 2)
