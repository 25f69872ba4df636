"""Overhead of scale: what planning, scheduling and storing cost when the work itself costs nothing.

    python pipelines/bench/bench_scale.py                                          # some minutes on two cores
    python pipelines/bench/bench_scale.py --models 500 1000 2000 --images 2500 5000 10000 --classifiers 200

Models are trained and images certified by the stages' own code, on a Ray of as many nodes as are asked for, of eight
CPUs and eight GPUs each: they are processes of this machine, and their CPUs and GPUs are only declared. In place of a
training stands an empty network, in place of sampling a table of counts. Times are of this machine; what
carries over is how they grow: what one more unit costs is a slope over sizes, so that starting up is no part of it, and
`growth` is the slope between the two largest sizes over that between the two smallest: 1 where cost is linear.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import tyro
from bench_certify import save_untrained
from rich.console import Console
from rich.table import Table

import rspipe.stages.train as training
from rspipe.data.splits import Split
from rspipe.execution.board import Progress
from rspipe.execution.connection import connect
from rspipe.execution.resources import Cluster, Resources
from rspipe.records import TrainedModel
from rspipe.smoothing.classifiers import Classifier
from rspipe.smoothing.counts import CountTable
from rspipe.smoothing.derivation import CertifiedClassifier, certified_classifier
from rspipe.smoothing.rules import looks
from rspipe.smoothing.spec import CertifySpec
from rspipe.stages import certify
from rspipe.stages.passes import CountPass, Work, visit
from rspipe.stages.report import read_results
from rspipe.storage.classifiers import Candidate
from rspipe.storage.counts import SCHEMA, count_rows
from rspipe.storage.files import write_record
from rspipe.storage.store import Store
from rspipe.study.config import StudyConfig
from rspipe.study.loading import load_study
from rspipe.tracking.publish import Tracker
from rspipe.training.spec import ModelSpec

CLASSES, SIGMA = 10, 0.25
PAGE = 4096
EACH = 8
"""CPUs and GPUs of a node."""


@dataclass(frozen=True)
class Options:
    """Sizes, each list ascending, and the cluster."""

    models: tuple[int, ...] = (50, 100, 200)
    """Models of a study."""
    indexed: tuple[int, ...] = (20, 40, 80)
    """Models of a study that goes into an MLflow of its own, in a file."""
    images: tuple[int, ...] = (100, 200, 400)
    """Test images."""
    classifiers: int = 50
    """Classifiers certified in one pass."""
    workers: int = 2
    """Processes that do the stand-in work."""
    nodes: int = 64
    """Nodes of Ray's, which declare eight CPUs and eight GPUs each."""


@dataclass(frozen=True)
class Measured:
    """Cost of one step at one size."""

    step: str
    unit: str
    size: int
    seconds: float
    megabytes: float
    """Resident in the driver afterwards."""


@contextmanager
def declared(nodes: int) -> Iterator[str]:
    """Start a Ray of so many nodes on this machine; yield its address."""
    from ray.cluster_utils import Cluster as Nodes

    each = {"num_cpus": EACH, "num_gpus": EACH, "object_store_memory": 10**8}
    started = Nodes(initialize_head=True, head_node_args={**each, "include_dashboard": False})
    try:
        for _ in range(nodes - 1):
            started.add_node(wait=False, **each)
        started.wait_for_nodes(timeout=10.0 * nodes)
        yield started.address
    finally:
        started.shutdown()


def resident() -> float:
    """Return the megabytes that this process holds."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE / 1e6


def timed(step: str, unit: str, size: int, function: Callable[[], Any]) -> tuple[Any, Measured]:
    """Return what a function returns, and what it cost."""
    began = time.monotonic()
    result = function()
    return result, Measured(step, unit, size, time.monotonic() - began, resident())


def study_of(models: int, folder: Path) -> StudyConfig:
    """Return a study of so many models that differ by their seed."""
    path = folder / f"{models}.toml"
    path.write_text(
        f'name = "scale"\n[[models]]\narchitecture = "digits_cnn"\ntraining = {{}}\n'
        f'method = {{ name = "gaussian" }}\nsigma = {SIGMA}\nseeds = {[*range(models)]}\n',
        encoding="utf-8",
    )
    return load_study(path)


def instead_of_training(store: Store, spec: ModelSpec, *_: Any, **__: Any) -> TrainedModel:
    """Store an empty network as a model."""
    return save_untrained(store, spec, {"w": torch.zeros(1)})


def stand_in_loop(config: dict[str, Any]) -> None:
    """Run the stage's own loop on a worker, with `instead_of_training` in it."""
    import rspipe.stages.train as stage

    stage.train_one = instead_of_training  # type: ignore[assignment]
    stage.dataset_on = lambda *_: None  # type: ignore[assignment,return-value]
    loop = stage.train_loop
    assert loop is not stand_in_loop
    loop(config)


@dataclass(frozen=True)
class Counted(CountPass):
    """A pass that counts nothing: every sample of every classifier falls into the label's class."""

    def run(self, *given: Any, **_: Any) -> pa.Table:
        """Return rows like those of a real pass, for (networks, image, label, example)."""
        (label, example), rows, spec = given[2:], len(self.classifiers), self.certify
        marks = np.array([look.n for look in looks(spec.n, spec.alpha)])
        selection, estimation = (np.zeros((rows, CLASSES), np.int64) for _ in range(2))
        selection[:, label], estimation[:, label] = spec.n0, spec.n
        prefix = np.zeros((rows, len(marks), CLASSES), np.int64)
        prefix[:, :, label] = marks
        counts = CountTable(
            sigma=self.sigma,
            rule=spec.rule,
            n0=spec.n0,
            n=spec.n,
            alpha=spec.alpha,
            seed=spec.seed,
            classifier=np.array([one.id for one in self.classifiers]),
            kind=np.array([one.kind for one in self.classifiers]),
            example=np.full(rows, example),
            label=np.full(rows, label),
            selection=selection,
            pilot=np.zeros_like(selection),
            estimation=estimation,
            stop=np.full(rows, ""),
            marks=marks,
            prefix=prefix,
            probability_sum=estimation.astype(float),
            probability_square=estimation.astype(float),
            batch_size=np.ones(rows, np.int64),
            seconds=np.zeros(rows),
            noise=np.full(rows, "grid 1/255"),
        )
        return count_rows(counts, keys=self.keys, spec=spec, device="cpu")


def measure_models(options: Options, cluster: Cluster, folder: Path) -> list[Measured]:
    """Plan and train studies of growing size."""
    widest = replace(cluster, resources=replace(cluster.resources, workers=None))
    training.train_loop = stand_in_loop
    first = study_of(1, folder).model_specs
    _, started = timed("start a group", "group", 1, lambda: train(Store(folder / "first"), first, cluster))
    measurements = [started]
    for size in options.models:
        study, read = timed("read the study", "model", size, lambda size=size: study_of(size, folder))
        specs = study.model_specs
        _, named = timed("name the models", "model", size, lambda specs=specs: {spec.id for spec in specs})
        store = Store(folder / f"models-{size}")
        assert widest.workers(size) == min(size, EACH * options.nodes)
        _, trained = timed("train", "model", size, lambda store=store, specs=specs: train(store, specs, cluster))
        _, again = timed(
            "find all trained", "model", size, lambda store=store, specs=specs: train(store, specs, cluster)
        )
        measurements += [read, named, trained, again]
    return measurements


def train(store: Store, specs: Sequence[ModelSpec], cluster: Cluster) -> None:
    """Train with the stage what is not trained yet."""

    def ignore(_: Progress) -> None:
        return None

    write_record(store.run_dir / "study.json", {})
    training.train_models(store, specs, cluster=cluster, on_progress=ignore)


def measure_index(options: Options, folder: Path) -> list[Measured]:
    """Read the records of studies of growing size, and publish them in MLflow, once and again."""
    measurements = []
    for size in options.indexed:
        study, store = study_of(size, folder), Store(folder / f"index-{size}" / "run")
        for name in ("study.json", "environment.json"):
            write_record(store.run_dir / name, {})
        (store.run_dir / "study.toml").write_text("")
        for spec in study.model_specs:
            instead_of_training(store, spec)
        results, read = timed(
            "read the records", "model", size, lambda store=store, study=study: read_results(store, study)
        )
        tracker = Tracker(store, study)
        # The database is made by then, which takes longer than a small study.
        tracker.open()
        _, published = timed(
            "publish", "model", size, lambda tracker=tracker, results=results: tracker.publish(results)
        )
        _, again = timed(
            "find all published", "model", size, lambda tracker=tracker, results=results: tracker.publish(results)
        )
        tracker.finish("FINISHED")
        measurements += [read, published, again]
    return measurements


def measure_images(options: Options, cluster: Cluster, folder: Path) -> list[Measured]:
    """Certify growing numbers of images with the stage's own stream and tables."""
    measurements, spec = [], CertifySpec(n0=100, n=10_000)
    classifiers = tuple(Classifier(f"c{index}", (0,), (1.0,)) for index in range(options.classifiers))
    keys = dict.fromkeys((one.id for one in classifiers), "k")
    candidates = [Candidate(one.id, SIGMA, (one.id,), (1.0,), "logits", (one.id,)) for one in classifiers]
    study = study_of(1, folder)
    for size in options.images:
        store = Store(folder / f"images-{size}")
        write_record(store.run_dir / "study.json", {})
        split = Split(torch.zeros(size, 1, 8, 8), torch.zeros(size, dtype=torch.int64), torch.arange(size))
        sampling = Counted(SIGMA, (), classifiers, tuple(keys.values()), spec, CLASSES)

        def plan(store: Store = store, split: Split = split) -> list[Work]:
            return certify._works(candidates, split, store.counted(), study, keys=keys, classes=CLASSES)

        def on_block(rows: pa.Table, store: Store = store) -> None:
            store.save_counts(rows.select(SCHEMA.names))

        works, planned = timed("plan the images", "image", size, plan)
        assert sum(len(work.split) for work in works) == size

        def certify_all(split: Split = split, sampling: Counted = sampling, store: Store = store) -> None:
            visit(store, [Work(sampling, split)], classes=CLASSES, cluster=cluster, on_block=on_block)

        _, certified = timed("certify", "image", size, certify_all)
        left, again = timed("find all certified", "image", size, plan)
        assert left == []

        def read_all(store: Store = store) -> list[CertifiedClassifier]:
            return [*map(certified_classifier, store.classifier_counts(keys))]

        _, read = timed("read the certificates", "image", size, read_all)
        measurements += [planned, certified, again, read]
    return measurements


def growth(rows: Sequence[Measured]) -> float:
    """Return the slope of the seconds between the two largest sizes over that between the two smallest."""
    return marginal(rows[-2:], "seconds") / marginal(rows[:2], "seconds")


def marginal(rows: Sequence[Measured], name: str) -> float:
    """Return what one more unit costs: the slope of a line through all sizes."""
    return float(np.polyfit([row.size for row in rows], [getattr(row, name) for row in rows], 1)[0])


def show(measurements: Sequence[Measured], options: Options) -> None:
    """Print a line per step."""
    title = f"{options.nodes} nodes, {options.workers} workers, {options.classifiers} classifiers in a pass"
    table = Table(title=title, title_justify="left")
    for column in ("step", "sizes", "seconds", "growth", "ms per unit", "driver MB", "kB per unit"):
        table.add_column(column, justify="left" if column == "step" else "right")
    for step in dict.fromkeys(row.step for row in measurements):
        rows = [row for row in measurements if row.step == step]
        several = len(rows) > 1
        table.add_row(
            f"{step} ({rows[0].unit})",
            ", ".join(f"{row.size}" for row in rows),
            ", ".join(f"{row.seconds:.3g}" for row in rows),
            f"{growth(rows):.2f}" if len(rows) > 2 else "",
            f"{1000 * marginal(rows, 'seconds'):.3g}" if several else f"{1000 * rows[0].seconds:.3g}",
            f"{rows[-1].megabytes:.0f}",
            f"{1000 * marginal(rows, 'megabytes'):.3g}" if several else "",
        )
    Console(width=160).print(table)


def bench(options: Options) -> None:
    """Measure everything below a temporary folder."""
    resources = Resources(workers=options.workers, gpus_per_worker=1.0, allow_cpu=True)
    # A cluster's server is for studies.
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (
            declared(options.nodes) as address,
            connect(address=address, resources=resources, log=folder / "ray.log") as cluster,
        ):
            assert len(cluster.nodes) == options.nodes
            measurements = [*measure_models(options, cluster, folder), *measure_images(options, cluster, folder)]
        measurements += measure_index(options, folder)
        show(measurements, options)


if __name__ == "__main__":
    bench(tyro.cli(Options, description=__doc__))
