"""A classifier comes back from an MLflow run as it was certified, and nothing that a run holds is executed."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run

import rspipe
from rspipe.errors import ModelError, StoreError
from rspipe.networks.architectures import build_network
from rspipe.records import Cascade
from rspipe.report.results import Results
from rspipe.smoothing.cascades import CertifiedCascade
from rspipe.smoothing.classifiers import Classifier, classify
from rspipe.spec import content_id
from rspipe.storage.files import checksum, read_content, write_record
from rspipe.storage.paths import StorePath
from rspipe.storage.store import Store
from rspipe.tracking.client import tracking_uri
from rspipe.tracking.load import load_classifier
from rspipe.tracking.publish import Tracker
from tests import results_builder as built

Published = tuple[Store, Results, dict[str, Run]]
MODELS = [("advmacer", 0), ("advmacer", 1), ("gaussian", 0)]
WEIGHTS = (0.7, 0.3)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Published:
    """Publish three models of random parameters, an ensemble of two, and a model that diverged."""
    store = Store(tmp_path_factory.mktemp("logged") / "run")
    shutil.copy(empty_database, store.run_dir.local_part.parent)
    for name in ("study.json", "environment.json"):
        write_record(store.run_dir / name, {"name": name})
    (store.run_dir / "study.toml").write_text("")
    models = []
    for position, (label, seed) in enumerate(MODELS):
        parameters = build_network("digits_cnn", classes=10, seed=position).state_dict()
        record = built.stored_model(label, 0.5, seed, spec={"architecture": "digits_cnn"})
        models.append(replace(record, checksum=checksum(parameters)))
        store.save_model(models[-1], parameters)
    diverged = built.stored_model("gaussian", 0.5, 1, status="diverged", message="loss is nan")
    store.save_model(diverged, {})
    ids, sums = zip(*((model.id, model.checksum) for model in models[:2]), strict=True)
    ensemble = replace(built.ensemble("advmacer x2", 0.5, ids, weights=WEIGHTS), checksums=sums)
    store.save_ensemble_weights(ensemble)
    # Its sigmas are what a test looks for; no certificate is made from them.
    cascade = Cascade(
        name="both over 0.5, 0.25", sigmas=(0.5, 0.25), classifiers=(models[2].id, ensemble.id), seed=None
    )
    of_cascade = built.certified(cascade.id, "cascade", 0.5, skill=0.8, seed=2)
    content = built.results(
        study=built.study(certify={"n0": built.N0, "n": built.N, "alpha": built.ALPHA, "precision": "bfloat16"}),
        models=(*models, diverged),
        searches=(),
        trials=(),
        ensembles=(ensemble,),
        certified=tuple(built.certified(model.id, "model", 0.5, skill=0.8, seed=1) for model in models),
        cascades=(CertifiedCascade(cascade, of_cascade, np.zeros(60, np.int64)),),
    )
    tracker = Tracker(store, content.study)
    tracker.publish(content, content.summaries)
    tracker.finish("FINISHED")
    client = MlflowClient(tracking_uri(store.run_dir))
    experiment = client.get_experiment_by_name("rspipe").experiment_id
    runs = {run.info.run_name: run for run in client.search_runs([experiment])}
    return store, content, runs


@pytest.fixture
def source(published: Published, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Say where MLflow keeps the runs, as a user does."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri(published[0].run_dir))
    return published[0]


def run_of(published: Published, name: str) -> Run:
    (run,) = [run for title, run in published[2].items() if title.startswith(name)]
    return run


def address(run: Run) -> str:
    return f"runs:/{run.info.run_id}"


IMAGES = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_a_model_comes_back_as_it_was_certified(published: Published, source: Store) -> None:
    run = run_of(published, "gaussian, seed 0")
    assert f'load_classifier("{address(run)}")' in run.data.tags["mlflow.note.content"]
    for precision in ("bfloat16", "float32"):
        expected = rspipe.deploy(build_network("digits_cnn", classes=10, seed=2), precision=precision)
        # The study's precision by default.
        loaded = load_classifier(address(run), precision=None if precision == "bfloat16" else precision)
        assert torch.equal(loaded(IMAGES), expected(IMAGES))
    a, b = (rspipe.certify(one, IMAGES[0], sigma=0.5, n0=50, n=500, seed=3) for one in (loaded, expected))
    assert a.estimation.tolist() == b.estimation.tolist()
    assert sum(a.estimation) == 500


def test_an_ensemble_comes_back_with_its_members_and_weights(published: Published, source: Store) -> None:
    loaded = load_classifier(address(run_of(published, "advmacer ×2")), precision="float32")
    noisy = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    networks = [rspipe.deploy(build_network("digits_cnn", classes=10, seed=s), precision="float32") for s in (0, 1)]
    logits = dict(enumerate(network(noisy) for network in networks))
    (scores,) = classify([Classifier("both", (0, 1), WEIGHTS, "probabilities")], logits)
    assert torch.equal(loaded(noisy).argmax(1), scores.classes)
    assert not torch.equal(logits[0].argmax(1), scores.classes)
    assert sum(rspipe.certify(loaded, IMAGES[0], sigma=0.5, n0=50, n=500).estimation) == 500


def test_a_cascade_comes_back_as_its_levels_and_predicts_by_one_call(published: Published, source: Store) -> None:
    run = run_of(published, "both over 0.5, 0.25")
    assert f'load_cascade("{address(run)}")' in run.data.tags["mlflow.note.content"]
    levels = rspipe.load_cascade(address(run), precision="float32")
    assert [sigma for sigma, _ in levels] == [0.5, 0.25]
    for (_, loaded), name in zip(levels, ("gaussian, seed 0", "advmacer ×2"), strict=True):
        alone = load_classifier(address(run_of(published, name)), precision="float32")
        assert torch.equal(loaded(IMAGES), alone(IMAGES))
    sure = torch.tensor([[9.0, 0.0]])
    constant = [(sigma, lambda batch: sure.repeat(len(batch), 1)) for sigma, _ in levels]
    assert rspipe.predict_cascade(constant, IMAGES[0], n=100) == 0
    assert rspipe.predict_cascade(levels, IMAGES[0], n=100, alpha=0.1) in range(-1, 10)
    with pytest.raises(StoreError, match=r"use rspipe\.load_cascade"):
        load_classifier(address(run))
    with pytest.raises(StoreError, match=r"use rspipe\.load_classifier"):
        rspipe.load_cascade(address(run_of(published, "gaussian, seed 0")))


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("models:/mine/1", "is no run; give runs:/<id>"),
        ("runs:/" + "0" * 32, "cannot be read from MLflow"),
        ("study", "is of a study; give that of a model or an ensemble"),
        ("gaussian, seed 1", "its training diverged, it has no classifier"),
    ],
)
def test_what_is_no_classifier_is_refused_in_one_line(
    published: Published, source: Store, run: str, message: str
) -> None:
    if not run.startswith(("runs:", "models:")):
        run = address(run_of(published, published[1].study.id if run == "study" else run))
    with pytest.raises(StoreError, match=message) as caught:
        load_classifier(run)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "gpu"}, "device 'gpu' is none that torch can use here"),
        ({"device": "cuda:99"}, "device 'cuda:99' is none that torch can use here"),
        ({"precision": "float16"}, "precision must be one of .*, got 'float16'"),
    ],
)
@pytest.mark.parametrize("load", [load_classifier, rspipe.load_cascade])
def test_a_device_or_a_precision_that_is_none_is_not_said_of_mlflow(
    source: Store, load: Callable[..., object], options: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load("runs:/" + "0" * 32, **options)
    assert "\n" not in str(caught.value)


def test_what_the_network_itself_fails_with_is_not_said_of_mlflow(
    published: Published, source: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise RuntimeError("an operation of the network's")

    monkeypatch.setattr("rspipe.tracking.load.load_network", failing)
    with pytest.raises(RuntimeError, match=r"^an operation of the network's$"):
        load_classifier(address(run_of(published, "gaussian, seed 0")))


def test_a_database_in_a_folder_with_any_name_is_found(tmp_path: Path) -> None:
    for name in ("a#1", "50%25"):
        folder = tmp_path / name
        folder.mkdir()
        with pytest.raises(StoreError, match="no such database of MLflow"):
            load_classifier("0" * 32, uri=f"sqlite:///{folder}/mlflow.db")
        (folder / "mlflow.db").write_text("no database")
        with pytest.raises(StoreError, match="cannot be read from MLflow"):
            load_classifier("0" * 32, uri=f"sqlite:///{folder}/mlflow.db")


def test_a_database_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no such database of MLflow; say uri="):
        load_classifier("0" * 32, uri=f"sqlite:///{tmp_path}/mlflow.db")
    assert list(tmp_path.iterdir()) == []


class _Trap:
    """Pickled, it leaves a file behind when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


def _pickled(folder: Path) -> None:
    torch.save({"w": _Trap(folder / "executed")}, folder / "weights.pt")


def _other_weights(folder: Path) -> None:
    torch.save(build_network("digits_cnn", classes=10, seed=7).state_dict(), folder / "weights.pt")


def _other_model(folder: Path) -> None:
    parameters = build_network("digits_cnn", classes=10, seed=7).state_dict()
    torch.save(parameters, folder / "weights.pt")
    _edit(folder, checksum=checksum(parameters))


def _other_normalization(folder: Path) -> None:
    record = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(record | {"normalization": [[0.5], [0.5]]}))


def _other_spec(folder: Path) -> None:
    _edit(folder, spec={"architecture": "os:mkdir"})


def _shorter(folder: Path) -> None:
    (folder / "model.json").write_text('{"id": "a"}')


def _edit(folder: Path, **changes: object) -> None:
    """Change a record as somebody does who knows how it is written."""
    path = StorePath.of(folder / "model.json")
    write_record(path, read_content(path) | changes)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_pickled, "weights.pt is not what model.json describes"),
        (_other_weights, "weights.pt is not what model.json describes"),
        (_other_model, "model.json is of another model than the run"),
        (_other_normalization, "model.json is damaged, or of another version of rspipe"),
        (_other_spec, "model.json is damaged, or of another version of rspipe"),
        (_shorter, "model.json is damaged, or of another version of rspipe"),
    ],
)
def test_files_of_a_run_that_were_changed_are_refused_and_execute_nothing(
    published: Published, source: Store, tmp_path: Path, damage, message: str
) -> None:
    run = run_of(published, "gaussian, seed 0")
    folder = Path(run.info.artifact_uri.removeprefix("file://"))
    kept = shutil.copytree(folder, tmp_path / "kept")
    try:
        damage(folder)
        with pytest.raises(StoreError, match=message) as caught:
            load_classifier(address(run))
        assert "\n" not in str(caught.value)
        assert not (folder / "executed").exists()
    finally:
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)
    # The test's own damage is undone, and would have been noticed.
    load_classifier(address(run))


def test_a_run_whose_network_is_code_is_loaded_only_where_that_is_allowed(published: Published, source: Store) -> None:
    client, run = MlflowClient(tracking_uri(source.run_dir)), run_of(published, "gaussian, seed 0")
    folder = Path(run.info.artifact_uri.removeprefix("file://"))
    known, before = (folder / "model.json").read_bytes(), run.data.tags["rspipe.key"]
    spec = {"architecture": "os:mkdir"}
    id_ = f"mine-{content_id(spec)}"
    try:
        _edit(folder, spec=spec, id=id_)
        client.set_tag(run.info.run_id, "rspipe.key", f"model/{id_}/{before.rpartition('/')[2]}")
        with pytest.raises(StoreError, match="is made by code, that of module 'os'; say allow_code=True"):
            load_classifier(address(run))
    finally:
        client.set_tag(run.info.run_id, "rspipe.key", before)
        (folder / "model.json").write_bytes(known)


def test_a_member_that_is_gone_is_told(published: Published, source: Store) -> None:
    client, run = MlflowClient(tracking_uri(source.run_dir)), run_of(published, "advmacer, seed 1")
    client.delete_run(run.info.run_id)
    try:
        with pytest.raises(StoreError, match=r"no run of its member \S*-seed1-\w+ with checksum \w+; pipelines"):
            load_classifier(address(run_of(published, "advmacer ×2")))
    finally:
        client.restore_run(run.info.run_id)


def test_classes_that_do_not_fit_are_told(published: Published, source: Store) -> None:
    with pytest.raises((StoreError, ModelError), match="do not fit digits_cnn with 7 classes; say classes="):
        load_classifier(address(run_of(published, "gaussian, seed 0")), classes=7)
