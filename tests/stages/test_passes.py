"""Passes over images on a real pool of actors give what the core gives in one process."""

import errno
import io
import os
import platform
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from rspipe.data.sources import load_dataset
from rspipe.data.splits import Dataset
from rspipe.ensembles.choice import choose_weights
from rspipe.ensembles.moments import image_margins
from rspipe.errors import DataError, ModelError, StoreError, WorkersLostError
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


@pytest.mark.parametrize(("workers", "rule"), [(1, "decide"), (2, "radius_grid"), (3, "planned")])
def test_counts_of_a_pool_are_those_of_the_core_for_any_number_of_actors(
    workers: int,
    rule: str,
    cluster: Cluster,
    data: Dataset,
    store: Store,
    trained: tuple[Path, list[TrainedModel]],
) -> None:
    study, models = ruled(rule), trained[1]
    mme = replace(ensemble(models, (0.5, 0.5)), id="mme", method="mme")
    certify_classifiers(
        store, study, models, [ensemble(models), mme], cluster=with_workers(cluster, workers), on_progress=silent
    )
    classifiers = (
        Classifier(models[0].id, (0,), (1.0,)),
        Classifier(models[1].id, (1,), (1.0,)),
        Classifier("both", (0, 1), (0.3, 0.7), "probabilities"),
        Classifier("mme", (0, 1), (0.5, 0.5), "probabilities", "mme"),
    )
    expected = expected_rows(store, study, data, models, classifiers)
    counted = rows(store)
    assert counted.keys() == expected.keys()
    for key, wanted in expected.items():
        assert {name: counted[key][name] for name in wanted} == wanted, key
        assert counted[key]["rule"] == rule
    counts = store.classifier_counts(certification_keys(study, models, [ensemble(models), mme]), complete=True)
    for one in counts:
        certificates = derive(one)
        for position, example in enumerate(one.example.tolist()):
            assert counted[one.id, example]["radius"] == certificates.radius[position]
            assert counted[one.id, example]["prediction"] == certificates.prediction[position]


def test_a_classifier_has_the_same_counts_alone_as_among_others(
    one_actor: Cluster, study: StudyConfig, store: Store, tmp_path: Path, trained: tuple[Path, list[TrainedModel]]
) -> None:
    models = trained[1]
    certify_classifiers(store, study, models, [ensemble(models)], cluster=one_actor, on_progress=silent)
    alone = store_of(tmp_path / "alone", trained[0])
    certify_classifiers(alone, study, models[1:], [], cluster=one_actor, on_progress=silent)
    among = rows(store)
    assert rows(alone) == {key: row for key, row in among.items() if key[0] == models[1].id}


def test_what_is_certified_is_not_visited_again_and_what_is_missing_is_added(
    one_actor: Cluster, study: StudyConfig, store: Store, trained: tuple[Path, list[TrainedModel]]
) -> None:
    models, left = trained[1], list[float]()

    def run() -> None:
        seen: list[Progress] = []
        certify_classifiers(store, study, models[:1], [], cluster=one_actor, on_progress=seen.append)
        left.append(seen[0].total - seen[0].done)

    run()
    lost = (store.run_dir / "certificates").glob("part-*.parquet")[0]
    kept = rows(store)
    lost.unlink()
    missing = len(kept) - len(rows(store))
    run()
    run()
    assert left == [IMAGES, missing, 0]
    assert rows(store) == kept


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


def test_every_weighting_is_solved_from_one_pass_and_certified_as_an_average(
    one_actor: Cluster, store: Store, trained: tuple[Path, list[TrainedModel]]
) -> None:
    weights = ["uniform", "esbrs_acr", "sween", "auto", "mme"]
    members = "['gaussian-s0.25-seed1', 'gaussian-s0.25-seed0']"
    study = ruled("fixed", f"ensembles=[{{members={members}, weights={weights}}}]")
    specs = study.ensemble_specs([one for one in study.model_specs if one.label == "gaussian"])
    records = weigh_ensembles(store, study, specs, cluster=one_actor, on_progress=silent)
    assert [record.method for record in records] == weights
    assert len((store.run_dir / "moments").glob("*.npz")) == 1
    by_method = {record.method: record for record in records}
    (margins,) = member_margins(store, study, specs)
    counted = margins.of(records[0].members)
    for method, record in by_method.items():
        assert record.members == tuple(model.id for model in reversed(trained[1]))
        expected = choose_weights(method, counted)  # type: ignore[arg-type]
        assert (record.weights, record.status) == (tuple(expected.weights), expected.status)
    assert by_method["esbrs_acr"].status == "local optimum"
    assert by_method["sween"].gap <= 1e-4
    assert "standard error" in by_method["auto"].status
    combinations = [classifier_of(record)[0].combination for record in records]
    assert combinations == ["average"] * 4 + ["mme"]


def test_moments_of_a_pool_of_two_are_those_of_the_core(
    cluster: Cluster, study: StudyConfig, data: Dataset, store: Store, trained: tuple[Path, list[TrainedModel]]
) -> None:
    specs = [spec for spec in study.ensemble_specs(study.model_specs) if spec.label == "gaussian x2"]
    records = weigh_ensembles(store, study, specs, cluster=with_workers(cluster, 2), on_progress=silent)
    assert [record.method for record in records] == ["uniform", "esbrs_ratio", "esbrs_paper"]
    (path,) = (store.run_dir.local_part / "moments").glob("*.npz")
    arrays = store.moments(path.stem)
    assert arrays is not None
    members = sorted(model.id for model in trained[1])
    networks = [load_network(store, member, classes=10, device=torch.device("cpu")) for member in members]
    split = data.calibration.evenly_spaced(IMAGES)
    assert arrays["example"].tolist() == split.index.tolist()
    for position, (image, label, example) in enumerate(
        zip(split.images, split.labels.tolist(), split.index.tolist(), strict=True)
    ):
        counted = image_margins(
            networks, image, label, Noise(0, example), averages=("probabilities",), sigma=0.25, draws=50
        )["probabilities"]
        assert np.array_equal(arrays["mean"][position], counted.moments.mean)
        assert np.array_equal(arrays["covariance"][position], counted.moments.covariance)
        assert np.array_equal(arrays["label_probability"][position], counted.label_probability)
        assert np.array_equal(arrays["margins"][position], counted.margins)
    for record in records:
        assert sum(record.weights) == pytest.approx(1)
        assert min(record.weights) >= 0
        assert record.gap < 1e-4


def test_averages_of_probabilities_and_of_logits_are_weighed_from_one_pass_over_the_images(
    one_actor: Cluster, store: Store, trained: tuple[Path, list[TrainedModel]]
) -> None:
    members = "weights='uniform', members=['gaussian-s0.25-seed1', 'gaussian-s0.25-seed0']"
    study = ruled("fixed", f"ensembles=[{{{members}}}, {{{members}, average='logits'}}]")
    specs = study.ensemble_specs([one for one in study.model_specs if one.label == "gaussian"])
    assert [spec.average for spec in specs] == ["probabilities", "logits"]
    told: list[Progress] = []
    weigh_ensembles(store, study, specs, cluster=one_actor, on_progress=told.append)
    assert (told[-1].done, told[-1].total) == (IMAGES, IMAGES)
    by_average = {margins.average: margins.calibration.mean for margins in member_margins(store, study, specs)}
    # Differences of probabilities are below 1, of logits here above.
    assert abs(by_average["probabilities"]).max() < 1 < abs(by_average["logits"]).max()
    # One that is lacking is found without the other.
    (path,) = (store.run_dir.local_part / "moments").glob("logits-*.npz")
    (kept,) = (store.run_dir.local_part / "moments").glob("probabilities-*.npz")
    lost, seen = path.read_bytes(), kept.stat().st_mtime_ns
    path.unlink()
    for record in (store.run_dir / "weights").glob("*.json"):
        record.unlink()
    weigh_ensembles(store, study, specs, cluster=one_actor, on_progress=silent)
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


def test_weights_that_are_not_the_recorded_ones_end_certification_with_a_remedy(
    one_actor: Cluster, study: StudyConfig, store: Store, trained: tuple[Path, list[TrainedModel]]
) -> None:
    models = trained[1]
    strange = models[0]
    parameters = store.parameters(models[1].id)
    (store.run_dir.local_part / "models").unlink()
    store.save_model(strange, parameters)
    with pytest.raises(StoreError, match=r"weights\.pt: damaged .*not the parameters .* run the study again"):
        certify_classifiers(store, study, [strange], [], cluster=one_actor, on_progress=silent)
    assert store.counts() is None


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


def test_a_worker_that_finds_another_training_of_a_model_counts_nothing(
    one_actor: Cluster, study: StudyConfig, store: Store, trained: tuple[Path, list[TrainedModel]]
) -> None:
    models = [replace(model, checksum="the driver's") for model in trained[1][:1]]
    # Of the driver alone.
    store.existing_model = lambda _: models[0]  # type: ignore[method-assign]
    with pytest.raises(StoreError, match=r"on .* is of another training .* the run directory there is not the driver"):
        certify_classifiers(store, study, models, [], cluster=one_actor, on_progress=silent)
    assert store.counts() is None


def test_the_progress_tells_images_and_their_rate_and_leaves_samples_to_the_report(
    one_actor: Cluster, store: Store, trained: tuple[Path, list[TrainedModel]]
) -> None:
    seen: list[Progress] = []
    study = ruled("radius_grid", "certify.n=10000")
    certify_classifiers(store, study, trained[1][:1], [], cluster=one_actor, on_progress=seen.append)
    assert (seen[0].done, seen[0].total, seen[0].detail) == (0, IMAGES, "")
    assert seen[-1].done == IMAGES
    # Those that finish first need other samples than those that are still to come.
    assert re.fullmatch(r"[\d,.]+/min", seen[-1].detail)


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


def test_a_full_disk_ends_certification_with_a_line_and_the_next_run_goes_on(
    one_actor: Cluster, study: StudyConfig, store: Store, trained: tuple[Path, list[TrainedModel]]
) -> None:
    written = os.fsync
    calls: list[int] = []

    def full(file: int) -> None:
        calls.append(file)
        # The number of images, a part, another.
        if len(calls) == 3:
            # Half of a part fits.
            os.ftruncate(file, 4)
            raise OSError(errno.ENOSPC, "No space left on device")
        written(file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(
            StoreError, match=r"could not be written: .*No space left on device \(on .*\); free space .* resume"
        ):
            certify_classifiers(store, study, trained[1][:1], [], cluster=one_actor, on_progress=silent)
    kept = rows(store)
    assert 0 < len(kept) < IMAGES
    assert not [path for path in (store.run_dir.local_part / "certificates").iterdir() if path.suffix != ".parquet"]
    certify_classifiers(store, study, trained[1][:1], [], cluster=one_actor, on_progress=silent)
    assert len(rows(store)) == IMAGES
    assert {key: row for key, row in rows(store).items() if key in kept} == kept


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
