"""Passes over images on a real pool of actors give what the core gives in one process."""

import errno
import io
import os
import platform
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from rspipe.data.sources import load_dataset
from rspipe.data.splits import Dataset
from rspipe.ensembles.choice import choose_weights
from rspipe.ensembles.moments import image_margins
from rspipe.errors import BrokenModelError, DataError, ModelError, StoreError, WorkersLostError
from rspipe.execution.board import Progress
from rspipe.execution.hanging import Deadlines
from rspipe.execution.resources import Cluster, Resources
from rspipe.records import EnsembleWeights, TrainedModel
from rspipe.smoothing.classifiers import Classifier
from rspipe.smoothing.derivation import derive
from rspipe.smoothing.noise import Noise
from rspipe.smoothing.spec import CertifySpec
from rspipe.stages import certify
from rspipe.stages import passes as sampling
from rspipe.stages.certify import certify_classifiers
from rspipe.stages.passes import CountPass, Work, visit
from rspipe.stages.report import read_results
from rspipe.stages.train import train_one
from rspipe.stages.weigh import member_margins, weigh_ensembles
from rspipe.storage.classifiers import certification_keys, classifier_of, load_network
from rspipe.storage.files import checksum, write_record
from rspipe.storage.store import Store
from rspipe.study.config import StudyConfig
from rspipe.study.loading import load_study
from tests.processes import TINY
from tests.stages.counts import expected_rows, rows
from tests.stages.free_cpus import wait_for_cpus

IMAGES = 10


def ruled(rule: str, *more: str) -> StudyConfig:
    overrides = ["training.epochs=2", f"certify.images={IMAGES}", f"weigh.images={IMAGES}", f"certify.rule={rule}"]
    return load_study(TINY, overrides=[*overrides, *more])


@pytest.fixture(scope="module")
def study() -> StudyConfig:
    return ruled("fixed")


@pytest.fixture(scope="module")
def data(study: StudyConfig) -> Dataset:
    return load_dataset(study.data)


@pytest.fixture(scope="module")
def trained(
    study: StudyConfig, data: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[TrainedModel]]:
    """Train two models; return their run directory and records."""
    store = Store(tmp_path_factory.mktemp("trained"))
    return store.run_dir.local_part, [train_one(store, spec, data) for spec in study.model_specs[:2]]


def store_of(run_dir: Path, trained: Path) -> Store:
    """Make a run directory that has the models of another."""
    run_dir.mkdir()
    (run_dir / "study.json").write_text("{}")
    (run_dir / "models").symlink_to(trained / "models")
    return Store(run_dir)


@pytest.fixture
def store(trained: tuple[Path, list[TrainedModel]], tmp_path: Path) -> Store:
    """A run directory with the two models alone."""
    return store_of(tmp_path / "run", trained[0])


def ensemble(models: list[TrainedModel], weights: tuple[float, ...] = (0.3, 0.7)) -> EnsembleWeights:
    return EnsembleWeights(
        id="both",
        label="gaussian x2",
        sigma=0.25,
        members=tuple(model.id for model in models),
        method="esbrs_ratio",
        average="probabilities",
        weights=weights,
        objective=1.0,
        uniform_objective=1.0,
        status="optimal",
        solver="CLARABEL",
        gap=0.0,
        pairs=None,
        effective_pairs=None,
        spread=(),
        images=1,
        draws=1,
        checksums=tuple(model.checksum for model in models),
        consensus_size=0,
    )


def with_workers(cluster: Cluster, workers: int) -> Cluster:
    share = min(1.0, 2 / workers)
    return replace(cluster, resources=replace(cluster.resources, workers=workers, cpus_per_worker=share))


@pytest.fixture
def one_actor(cluster: Cluster) -> Cluster:
    """The cluster, with pools of a single actor: they start in half the time."""
    return with_workers(cluster, 1)


def silent(progress: Progress) -> None:
    del progress


def classifiers_of(models: list[TrainedModel]) -> tuple[list[EnsembleWeights], tuple[Classifier, ...]]:
    """Return two ensembles of two models, and all four classifiers."""
    mme = replace(ensemble(models, (0.5, 0.5)), id="mme", method="mme")
    alone = [Classifier(model.id, (member,), (1.0,)) for member, model in enumerate(models)]
    both = Classifier("both", (0, 1), (0.3, 0.7), "probabilities")
    return [ensemble(models), mme], (*alone, both, Classifier("mme", (0, 1), (0.5, 0.5), "probabilities", "mme"))


def assert_counted_as_by_the_core(
    store: Store, study: StudyConfig, data: Dataset, models: list[TrainedModel], seen: list[Progress]
) -> None:
    """Compare the counts of a pool with those of the core, radii with those that are derived; read the progress."""
    ensembles, classifiers = classifiers_of(models)
    expected = expected_rows(store, study, data, models, classifiers)
    counted = rows(store)
    assert counted.keys() == expected.keys()
    for key, wanted in expected.items():
        assert {name: counted[key][name] for name in wanted} == wanted, key
        assert counted[key]["rule"] == study.certify.rule.name
    for one in store.classifier_counts(certification_keys(study, models, ensembles), complete=True):
        certificates = derive(one)
        for position, example in enumerate(one.example.tolist()):
            assert counted[one.id, example]["radius"] == certificates.radius[position]
            assert counted[one.id, example]["prediction"] == certificates.prediction[position]
    assert (seen[0].done, seen[0].total, seen[0].detail) == (0, IMAGES, "")
    assert seen[-1].done == IMAGES
    # Images, and not samples: those that finish first may need others than those that are still to come.
    assert re.fullmatch(r"[\d,.]+/min", seen[-1].detail)


@pytest.fixture(scope="module")
def certified(
    cluster: Cluster,
    study: StudyConfig,
    trained: tuple[Path, list[TrainedModel]],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Store, list[Progress]]:
    """A run directory as a pool of one counts all four classifiers by rule fixed, not to be changed; its progress."""
    store, models = store_of(tmp_path_factory.mktemp("certified") / "run", trained[0]), trained[1]
    seen: list[Progress] = []
    one_actor = with_workers(cluster, 1)
    certify_classifiers(store, study, models, classifiers_of(models)[0], cluster=one_actor, on_progress=seen.append)
    return store, seen


def test_counts_of_a_pool_are_those_of_the_core(
    certified: tuple[Store, list[Progress]],
    study: StudyConfig,
    data: Dataset,
    trained: tuple[Path, list[TrainedModel]],
) -> None:
    store, seen = certified
    assert_counted_as_by_the_core(store, study, data, trained[1], seen)


def test_counts_of_every_other_rule_are_those_of_the_core_on_a_pool_of_three(
    cluster: Cluster, data: Dataset, trained: tuple[Path, list[TrainedModel]], tmp_path: Path
) -> None:
    # A pool starts for longer than it counts: the rules share one, as the noise levels of a study do.
    studies = [ruled("decide"), ruled("planned"), ruled("radius_grid", "certify.n=10000")]
    runs = [(store_of(tmp_path / study.certify.rule.name, trained[0]), study, list[Progress]()) for study in studies]
    models, works, takers = trained[1], list[Work](), list[Callable[[pa.Table], None]]()

    def later(_: Store, of_rule: Sequence[Work], *, on_block: Callable[[pa.Table], None], **__: object) -> None:
        works.extend(of_rule)
        takers.append(on_block)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certify, "visit", later)
        for store, study, seen in runs:
            ensembles = classifiers_of(models)[0]
            certify_classifiers(store, study, models, ensembles, cluster=cluster, on_progress=seen.append)
    assert len(works) == len(takers) == len(runs)

    def hand_out(block: pa.Table) -> None:
        for which, take in enumerate(takers):
            if (own := block.filter(pc.equal(block["work"], which))).num_rows:
                take(own)

    visit(runs[0][0], works, classes=10, cluster=with_workers(cluster, 3), on_block=hand_out)
    for store, study, seen in runs:
        assert_counted_as_by_the_core(store, study, data, models, seen)


def test_one_alone_that_a_full_disk_cuts_short_is_completed_with_the_counts_it_has_among_others(
    one_actor: Cluster,
    study: StudyConfig,
    store: Store,
    certified: tuple[Store, list[Progress]],
    trained: tuple[Path, list[TrainedModel]],
) -> None:
    models, written, calls = trained[1], os.fsync, list[int]()
    folder = store.run_dir.local_part / "certificates"

    def full(file: int) -> None:
        calls.append(file)
        # The number of images, a part, another.
        if len(calls) == 3:
            # Half of a part fits.
            os.ftruncate(file, 4)
            raise OSError(errno.ENOSPC, "No space left on device")
        written(file)

    def run() -> float:
        seen: list[Progress] = []
        certify_classifiers(store, study, models[1:], [], cluster=one_actor, on_progress=seen.append)
        return seen[0].total - seen[0].done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(
            StoreError, match=r"could not be written: .*No space left on device \(on .*\); free space .* resume"
        ):
            run()
    assert not [path for path in folder.iterdir() if path.suffix != ".parquet"]
    alone, among = rows(store), rows(certified[0])
    assert 0 < len(alone) < IMAGES
    assert alone == {key: among[key] for key in alone}
    assert {name for name, _ in alone} == {models[1].id}
    parts = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    # What is there is not counted again.
    assert run() == IMAGES - len(alone)
    assert run() == 0
    assert rows(store) == {key: row for key, row in among.items() if key[0] == models[1].id}
    assert {path: path.stat().st_mtime_ns for path in parts} == parts


def test_keys_depend_on_what_determines_counts_and_on_nothing_else(
    study: StudyConfig, trained: tuple[Path, list[TrainedModel]]
) -> None:
    models = trained[1]

    def keys(*overrides: str) -> dict[str, str]:
        return certification_keys(load_study(TINY, overrides=overrides), models, [ensemble(models)])

    here = certification_keys(study, models, [ensemble(models)])
    assert keys("certify.images=20", "radii=[0.0]", "weigh.draws=7") == here
    for other in (
        "certify.n=3000",
        "certify.seed=1",
        "certify.alpha=0.01",
        "certify.block_size=100",
        "data.seed=1",
        "certify.rule=planned",
        "certify.precision=bfloat16",
        "certify.batch_size=10",
    ):
        assert not set(keys(other).values()) & set(here.values()), other
    reweighted = certification_keys(study, models, [ensemble(models, (0.5, 0.5))])
    assert {name for name in here if here[name] != reweighted[name]} == {"both"}
    anew = [replace(models[0], checksum="other"), models[1]]
    retrained = certification_keys(study, anew, [ensemble(anew)])
    assert {name for name in here if here[name] != retrained[name]} == {models[0].id, "both"}


def test_moments_of_both_averages_are_those_of_the_core_from_one_pass_and_every_weighting_is_solved_from_them(
    cluster: Cluster, store: Store, data: Dataset, trained: tuple[Path, list[TrainedModel]]
) -> None:
    weights = ["uniform", "esbrs_ratio", "esbrs_paper", "esbrs_acr", "sween", "auto", "mme"]
    members = "members=['gaussian-s0.25-seed1', 'gaussian-s0.25-seed0']"
    ensembles = f"[{{{members}, weights={weights}}}, {{{members}, weights='uniform', average='logits'}}]"
    study = ruled("fixed", f"ensembles={ensembles}")
    specs = study.ensemble_specs([one for one in study.model_specs if one.label == "gaussian"])
    assert [spec.average for spec in specs] == ["probabilities"] * len(weights) + ["logits"]
    told: list[Progress] = []
    records = weigh_ensembles(store, study, specs, cluster=with_workers(cluster, 2), on_progress=told.append)
    assert (told[-1].done, told[-1].total) == (IMAGES, IMAGES)
    assert [record.method for record in records] == [*weights, "uniform"]
    (path,) = (store.run_dir.local_part / "moments").glob("logits-*.npz")
    (kept,) = (store.run_dir.local_part / "moments").glob("probabilities-*.npz")

    networks = [
        load_network(store, member, classes=10, device=torch.device("cpu"))
        for member in sorted(model.id for model in trained[1])
    ]
    split = data.calibration.evenly_spaced(IMAGES)
    arrays = {average: store.moments(file.stem) for average, file in (("logits", path), ("probabilities", kept))}
    for position, (image, label, example) in enumerate(
        zip(split.images, split.labels.tolist(), split.index.tolist(), strict=True)
    ):
        counted = image_margins(networks, image, label, Noise(0, example), averages=tuple(arrays), sigma=0.25, draws=50)
        for average, stored in arrays.items():
            assert stored is not None
            assert stored["example"].tolist() == split.index.tolist()
            of_average = counted[average]
            assert np.array_equal(stored["mean"][position], of_average.moments.mean)
            assert np.array_equal(stored["covariance"][position], of_average.moments.covariance)
            assert np.array_equal(stored["label_probability"][position], of_average.label_probability)
            assert np.array_equal(stored["margins"][position], of_average.margins)

    margins = {one.average: one for one in member_margins(store, study, specs)}
    # Differences of probabilities are below 1, of logits here above.
    means = {average: abs(one.calibration.mean).max() for average, one in margins.items()}
    assert means["probabilities"] < 1 < means["logits"]
    by_method = {record.method: record for record in records[:-1]}
    for method, record in by_method.items():
        assert record.members == tuple(model.id for model in reversed(trained[1]))
        assert sum(record.weights) == pytest.approx(1)
        assert min(record.weights) >= 0
        expected = choose_weights(method, margins["probabilities"].of(record.members))  # type: ignore[arg-type]
        assert (record.weights, record.status) == (tuple(expected.weights), expected.status)
    for method in ("uniform", "esbrs_ratio", "esbrs_paper", "sween"):
        assert by_method[method].gap < 1e-4, method
    assert by_method["esbrs_acr"].status == "local optimum"
    assert "standard error" in by_method["auto"].status
    combinations = [classifier_of(record)[0].combination for record in records]
    assert combinations == ["average"] * 6 + ["mme", "average"]

    # One average that is lacking is found without the other.
    lost, seen = path.read_bytes(), kept.stat().st_mtime_ns
    path.unlink()
    for weighed in (store.run_dir / "weights").glob("*.json"):
        weighed.unlink()
    weigh_ensembles(store, study, specs, cluster=with_workers(cluster, 1), on_progress=silent)
    with np.load(io.BytesIO(lost)) as before, np.load(path) as after:
        assert before.files == after.files
        assert all(np.array_equal(before[name], after[name]) for name in before.files)
    assert kept.stat().st_mtime_ns == seen


def test_a_model_that_returns_nan_is_left_out_and_the_others_are_certified(
    one_actor: Cluster,
    study: StudyConfig,
    store: Store,
    trained: tuple[Path, list[TrainedModel]],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    good, other = trained[1][:2]
    parameters = {name: value * torch.nan for name, value in store.parameters(other.id).items()}
    kept = store.parameters(good.id)
    (store.run_dir.local_part / "models").unlink()
    store.save_model(good, kept)
    broken = replace(other, checksum=checksum(parameters), answers=None)
    store.save_model(broken, parameters)
    certify_classifiers(store, study, [broken, good], [], cluster=one_actor, on_progress=silent)
    assert {name for name, _ in rows(store)} == {good.id}
    assert len(rows(store)) == IMAGES
    (line,) = [one for one in caplog.messages if "left out" in one]
    assert re.search(rf"{broken.id} is left out, .*NaN or \+inf as a logit.* \(image \d+, sigma 0\.25\)$", line)
    assert store.existing_model(broken.id).status == "failed"
    write_record(store.run_dir / "environment.json", {})
    assert [one.id for one in read_results(store, study).certified] == [good.id]
    # What is known to fail is not tried again, and alone it ends the study.
    failed = store.existing_model(broken.id)
    certify_classifiers(store, study, [failed, good], [], cluster=one_actor, on_progress=refuse)
    monkeypatch.setattr(certify, "visit", Mock(side_effect=BrokenModelError(f"{broken.id}: {failed.message}")))
    with pytest.raises(ModelError, match=r"NaN or \+inf as a logit"):
        certify_classifiers(store, study, [broken], [], cluster=one_actor, on_progress=silent)


def refuse(progress: Progress) -> None:
    assert progress.done == progress.total


def test_a_model_that_returns_nan_is_left_out_and_the_others_are_weighed(
    one_actor: Cluster,
    store: Store,
    data: Dataset,
    trained: tuple[Path, list[TrainedModel]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    names = ["gaussian-s0.25-seed0", "gaussian-s0.25-seed1", "gaussian-s0.25-seed2"]
    groups = [f"{{members=['{names[0]}', '{other}'], weights='uniform'}}" for other in names[1:]]
    study = ruled("fixed", "models.0.seeds=[0, 1, 2]", f"ensembles=[{', '.join(groups)}]")
    specs = [spec for spec in study.model_specs if spec.label == "gaussian"]
    kept = [(model, store.parameters(model.id)) for model in trained[1]]
    (store.run_dir.local_part / "models").unlink()
    for model, parameters in kept:
        store.save_model(model, parameters)
    third = train_one(store, specs[2], data)
    # One number of the last layer: the other classes keep their scores.
    parameters = {name: value.clone() for name, value in store.parameters(third.id).items()}
    list(parameters.values())[-1].view(-1)[0] = torch.nan
    store.save_model(replace(third, checksum=checksum(parameters), answers=None), parameters)
    ensembles = study.ensemble_specs(specs)
    (weighed,) = weigh_ensembles(store, study, ensembles, alone=specs, cluster=one_actor, on_progress=silent)
    assert weighed.members == tuple(model.id for model in trained[1])
    (line,) = [one for one in caplog.messages if "left out" in one]
    assert re.search(rf"{third.id} is left out, .*NaN or \+inf as a logit.* \(image \d+, sigma 0\.25\)$", line)
    assert store.existing_model(third.id).status == "failed"
    # The margins of the others are there, as if it had never been.
    (margins,) = member_margins(store, study, ensembles[:1], specs[:2])
    assert margins.members == tuple(sorted(model.id for model in trained[1]))


@pytest.mark.usefixtures("uncollected")
def test_workers_that_do_not_see_the_run_directory_say_so_and_are_gone_although_the_error_is_kept(
    one_actor: Cluster, study: StudyConfig, store: Store, trained: tuple[Path, list[TrainedModel]]
) -> None:
    (store.run_dir / "study.json").unlink()
    with pytest.raises(StoreError, match=r"is not visible on .*; choose one on storage that all nodes share") as kept:
        certify_classifiers(store, study, trained[1][:1], [], cluster=one_actor, on_progress=silent)
    # The traceback holds on to all that Ray Data still refers to, the actors among it.
    assert kept.tb is not None
    wait_for_cpus(one_actor)


@pytest.fixture
def actor(
    study: StudyConfig, data: Dataset, store: Store, monkeypatch: pytest.MonkeyPatch
) -> Callable[[TrainedModel], pa.Table]:
    """Return a function that counts an image by an actor's code in this process, for a driver that knows a model."""
    monkeypatch.setattr("ray.get_runtime_context", lambda: SimpleNamespace(current_actor=None))
    monkeypatch.setattr("ray.get", lambda value: value)
    for name in ("set_deterministic", "keep_freed_memory"):
        monkeypatch.setattr(sampling, name, lambda **_: None)
    silent = SimpleNamespace(remote=lambda *_: True)
    ((image,), (label,), (example,)) = (getattr(data.test, name)[:1] for name in ("images", "labels", "index"))

    def count(model: TrainedModel) -> pa.Table:
        counted = CountPass(0.25, (model.id,), (Classifier(model.id, (0,), (1.0,)),), ("key",), study.certify, 10)
        worker = sampling.Sampler(
            str(store.run_dir),
            passes=[counted],
            checksums={model.id: model.checksum},
            classes=10,
            roster=SimpleNamespace(join=silent),
            deadlines=SimpleNamespace(begin=silent, finish=silent),
            resources=Resources(gpus_per_worker=0),
        )
        block = {"work": 0, "example": int(example), "label": int(label), "image": image.numpy()}
        return worker({name: np.array([value]) for name, value in block.items()})

    return count


def test_weights_that_are_not_the_recorded_ones_are_not_counted_and_there_is_a_remedy(
    actor: Callable[[TrainedModel], pa.Table], store: Store, trained: tuple[Path, list[TrainedModel]]
) -> None:
    models = trained[1]
    assert actor(models[0]).num_rows == 1
    parameters = store.parameters(models[1].id)
    (store.run_dir.local_part / "models").unlink()
    store.save_model(models[0], parameters)
    with pytest.raises(StoreError, match=r"weights\.pt: damaged .*not the parameters .* run the study again"):
        actor(models[0])


def test_a_worker_that_finds_another_training_of_a_model_counts_nothing(
    actor: Callable[[TrainedModel], pa.Table], trained: tuple[Path, list[TrainedModel]]
) -> None:
    with pytest.raises(StoreError, match=r"on .* is of another training .* the run directory there is not the driver"):
        actor(replace(trained[1][0], checksum="the driver's"))


def test_images_outside_of_the_unit_interval_are_refused_before_anything_is_drawn(
    store: Store, trained: tuple[Path, list[TrainedModel]], monkeypatch: pytest.MonkeyPatch
) -> None:
    study, nowhere = ruled("fixed"), Cluster("nowhere", (), Resources())
    data = load_dataset(study.data)
    split = data.test
    bright = replace(data, test=replace(split, images=split.images * 255))
    monkeypatch.setattr(certify, "load_dataset", lambda _: bright)
    with pytest.raises(DataError, match=r"image \d+ has values from 0 to 255, outside \[0, 1\]; scale the images"):
        certify_classifiers(store, study, trained[1][:1], [], cluster=nowhere, on_progress=silent)
    assert store.counts() is None


def test_an_image_that_hangs_is_named_with_models_sigma_and_node_and_its_worker_is_replaced(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    members, clock, killed = tuple(f"m{number}" for number in range(5)), [0.0], list[object]()
    counted = CountPass(0.25, members, (), (), CertifySpec(n0=10, n=90), 10)
    deadlines, started = Deadlines(lambda: clock[0]), threading.Event()
    for example in (6, 7):
        held = sampling.held_image(counted, example, worker=b"a worker", device=torch.device("cpu"))
        deadlines.begin((0, example), held, 0)
    deadlines.finish((0, 6), 50)
    monkeypatch.setattr(sampling, "_LOOK_SECONDS", 0.005)
    monkeypatch.setattr(sampling, "_START_SECONDS", 0.0)
    monkeypatch.setattr("rspipe.execution.resources.requests_that_wait", lambda: 0)
    monkeypatch.setattr("ray.get", lambda value: value)
    monkeypatch.setattr("ray.kill", killed.append)
    monkeypatch.setattr("rspipe.execution.board.unsealed", lambda content: content)

    def ask() -> list[tuple[bytes | None, str]]:
        clock[0] += 20
        if messages := deadlines.hung():
            started.set()
        return messages

    def blocks() -> Iterator[pa.Table]:
        assert started.wait(30)
        yield pa.table({"example": [7]})

    asked = SimpleNamespace(hung=SimpleNamespace(remote=ask))
    roster = SimpleNamespace(size=SimpleNamespace(remote=lambda: 0))
    nowhere = Cluster("nowhere", (), Resources())
    (block,) = sampling._watched(blocks(), roster=roster, deadlines=asked, cluster=nowhere)
    assert block["example"].to_pylist() == [7]
    assert killed == [b"a worker"]
    assert caplog.messages == [
        "warning: no worker has started for 0 min; Ray's own logs say why",
        f"warning: image 7 at sigma 0.25 of m0, m1, m2 and 2 others on node {platform.node()} has not moved for 5 min, "
        "where 0 s were the most to expect; its worker is replaced",
    ]


@pytest.mark.parametrize(("brought", "pools"), [((0, 0, 0), 3), ((0, 0, 1, 0, 0, 0), 6), ((0, 9, 0, 0, 0), 5)])
def test_lost_actors_are_replaced_until_three_pools_in_a_row_bring_nothing(
    brought: tuple[int, ...],
    pools: int,
    study: StudyConfig,
    data: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    split = data.test.evenly_spaced(IMAGES)
    asked: list[list[int]] = []
    counted: list[int] = []

    class Nodes:
        def now(self) -> "Nodes":
            return self

    def pool(store: Any, works: Any, waiting: list[dict[str, Any]], *, on_block: Any, **_: Any) -> None:
        asked.append([row["example"] for row in waiting])
        for row in waiting[: brought[len(asked) - 1]]:
            on_block(pa.table({"work": [0], "example": [row["example"]]}))
        raise WorkersLostError("a node is gone")

    monkeypatch.setattr(sampling, "_run_pool", pool)
    monkeypatch.setattr(sampling, "make_deadlines", lambda: None)
    work = Work(CountPass(0.25, ("a",), (), (), study.certify, 10), split)

    def on_block(rows: pa.Table) -> None:
        counted.extend(rows["example"].to_pylist())

    with pytest.raises(WorkersLostError, match="a node is gone"):
        visit(Store(Path("/nowhere")), [work], classes=10, cluster=Nodes(), on_block=on_block)  # type: ignore[arg-type]
    assert len(asked) == pools
    for examples, before in zip(asked, [0, *np.cumsum(brought)], strict=False):
        assert examples == split.index.tolist()[before:]
    assert counted == split.index.tolist()[: sum(brought)]
    assert f"going on with the {IMAGES} images left" in caplog.text
