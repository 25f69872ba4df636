"""Classifiers loaded back from MLflow, as they were certified, from the artifacts of their runs alone.

A run holds `weights.pt`, a state dict, and `model.json`, the record of the model. MLflow's own formats of models are
not used: loading them executes what is in the file (pickle) or what it names (`loader_module`), and exporting to `pt2`
costs seconds per model and fixes what `rspipe.deploy` chooses for the machine at hand. Here nothing is executed: the
network is built by this package, and its parameters must be those of the run's checksum.
"""

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import torch
from torch import nn

from rspipe.errors import ModelError, RspipeError, StoreError, first_line
from rspipe.networks.architectures import allow_code_in, code_in
from rspipe.networks.precision import Precision
from rspipe.records import Record
from rspipe.smoothing.ensemble import Ensemble
from rspipe.storage.classifiers import classifier_of, load_network
from rspipe.storage.paths import StorePath
from rspipe.storage.store import Store
from rspipe.tracking.client import connect_mlflow, database_path, tracking_uri, without_secrets

R = TypeVar("R", bound=Record)

T = TypeVar("T")

_RUN = re.compile(r"(?:runs:/)?([0-9a-f]{32})/?")

_KEY = re.compile(r"(model|ensemble)/([\w.+,-]+)/(.+)")


def load_classifier(
    run: str,
    *,
    uri: str | None = None,
    device: str = "cpu",
    precision: Precision | None = None,
    classes: int | None = None,
    allow_code: bool = False,
) -> nn.Module:
    """Return the base classifier of an MLflow run, as it was certified: it goes into `rspipe.certify` as it is.

    A model gives logits [batch, class]; an ensemble gives 1 for the class that it chooses and 0 for the others.

    Args:
        run: `runs:/<id>` of a model or an ensemble.
        uri: Where MLflow keeps runs; MLFLOW_TRACKING_URI by default, or else runs/mlflow.db.
        device: Where the network runs.
        precision: Of the forward pass; that of the run's study by default. Another one is another classifier.
        classes: How many there are, where the shapes of the parameters do not say.
        allow_code: Whether the architecture may be a function of a module that the run names, installed or in the
            working directory, which is imported and called.

    Raises:
        ValueError: There is no such device here, or no such precision.
        StoreError: There is no such run, it is of something else, or its files are not what it says they are.
        ModelError: Its network cannot be built, or cannot be deployed in this precision.
        StudyError: This version of rspipe does not know its architecture.
    """
    _check_can_run(device, precision)
    return _loaded(run, uri, allow_code, classes, lambda source, id_: source.classifier(id_, device, precision))


def load_cascade(
    run: str,
    *,
    uri: str | None = None,
    device: str = "cpu",
    precision: Precision | None = None,
    classes: int | None = None,
    allow_code: bool = False,
) -> list[tuple[float, nn.Module]]:
    """Return the levels of the MLflow run of a cascade, sigma and base classifier, for `rspipe.predict_cascade`.

    Whether they are `two_sided` is a parameter of the run, whose description has both calls.
    Arguments and errors are those of `load_classifier`.
    """
    _check_can_run(device, precision)
    return _loaded(run, uri, allow_code, classes, lambda source, id_: source.cascade(id_, device, precision))


def _loaded(run: str, uri: str | None, allow_code: bool, classes: int | None, load: Callable[["_Source", str], T]) -> T:
    """Return what is loaded of a run by its id."""
    match = _RUN.fullmatch(run)
    if match is None:
        raise StoreError(f"{run!r} is no run; give runs:/<id> with the 32 hex digits that MLflow shows")
    run_id = match[1]
    address = uri or tracking_uri(StorePath.of("runs/study"))
    database = database_path(address)
    if database is not None and not database.is_file():
        raise StoreError(f"{database}: there is no such database of MLflow; say uri= or set MLFLOW_TRACKING_URI")
    with tempfile.TemporaryDirectory() as folder:
        return load(_Source(address, Path(folder), allow_code, classes), run_id)


def _check_can_run(device: str, precision: str | None) -> None:
    """Raise ValueError where this machine, or rspipe, has no such device or precision."""
    if precision not in (None, *get_args(Precision)):
        raise ValueError(f"precision must be one of {get_args(Precision)}, got {precision!r}")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {device!r} is none that torch can use here ({first_line(error)[:160]})") from error


class _Source:
    """Downloads what runs hold into a folder that is laid out like a run directory."""

    def __init__(self, uri: str, folder: Path, allow_code: bool, classes: int | None) -> None:
        self._uri, self._folder, self._store = uri, folder, Store(folder)
        self._allow_code, self._classes = allow_code, classes
        self._client: Any = None

    def _ask(self, run_id: str, question: Callable[[Any], T]) -> T:
        """Return what MLflow's client answers about a run."""
        try:
            self._client = self._client or connect_mlflow(self._uri)
            return question(self._client)
        except RspipeError:
            raise
        except Exception as error:  # MLflow's, of the database or of the network
            message = f"run {run_id} cannot be read from MLflow at {self._uri} ({first_line(error)[:200]})"
            raise StoreError(
                f"{without_secrets(message, self._uri)}; see that the server or the folder of its artifacts can be "
                "reached"
            ) from error

    def _run(self, run_id: str) -> Any:
        return self._ask(run_id, lambda client: client.get_run(run_id))

    def classifier(self, run_id: str, device: str, precision: Precision | None) -> nn.Module:
        run = self._run(run_id)
        kind = run.data.tags.get("rspipe.kind", "something else")
        if kind == "cascade":
            raise StoreError(f"run {run_id} is of a cascade, which has a classifier per level; use rspipe.load_cascade")
        if kind not in ("model", "ensemble"):
            raise StoreError(f"run {run_id} is of {_article(kind)}; give that of a model or an ensemble")
        wanted = precision or run.data.params.get("certify.precision", "float32")
        if kind == "model":
            return self._network(run, device, wanted)
        _, id_, _ = self._key(run)
        self._fetch(run_id, f"{id_}.json", self._store.run_dir / "weights")
        record = self._read(run_id, f"{id_}.json", lambda: self._store.ensemble_record(id_))
        classifier, members = classifier_of(record)
        checksums = dict(zip(record.members, record.checksums, strict=True))
        networks = [self._network(self._member(run, member, checksums[member]), device, wanted) for member in members]
        return Ensemble.of(networks, classifier).eval()

    def cascade(self, run_id: str, device: str, precision: Precision | None) -> list[tuple[float, nn.Module]]:
        run = self._run(run_id)
        if run.data.tags.get("rspipe.kind") != "cascade":
            raise StoreError(f"run {run_id} is of no cascade; use rspipe.load_classifier")
        parameters, levels = run.data.params, list[tuple[float, nn.Module]]()
        while f"level.{len(levels)}.key" in parameters:
            place, key = f"level.{len(levels)}", parameters[f"level.{len(levels)}.key"]
            level = self._keyed(run, key, f"its level {parameters[f'{place}.classifier']}")
            network = self.classifier(level.info.run_id, device, precision)
            levels.append((float(parameters[f"{place}.sigma"]), network))
        return levels

    def _member(self, run: Any, member: str, checksum: str) -> Any:
        """Return the run of a member of an ensemble, in the same experiment."""
        return self._keyed(run, f"model/{member}/{checksum}", f"its member {member} with checksum {checksum}")

    def _keyed(self, run: Any, key: str, what: str) -> Any:
        """Return the run of a key, in the experiment of another one."""
        if not re.fullmatch(r"[\w./+-]+", key):
            raise StoreError(f"run {run.info.run_id}: {key!r} is no name of a model")
        of_key = f"tags.`rspipe.key` = '{key}'"
        runs = self._ask(
            run.info.run_id, lambda client: client.search_runs([run.info.experiment_id], of_key, max_results=1)
        )
        if not runs:
            raise StoreError(
                f"run {run.info.run_id}: there is no run of {what}; pipelines/report.py publishes it again"
            )
        return runs[0]

    def _key(self, run: Any) -> tuple[str, str, str]:
        """Return the kind, the id and the checksum of what a run is of, which its key says.

        Raises:
            StoreError: It says something else.
        """
        match _KEY.fullmatch(run.data.tags.get("rspipe.key", "")):
            case None:
                raise StoreError(f"run {run.info.run_id}: its tag rspipe.key names no model; publish it again")
            case key:
                return key[1], key[2], key[3]

    def _network(self, run: Any, device: str, precision: Precision) -> nn.Module:
        """Return the network of a model's run as it is deployed."""
        id_, (_, name, checksum) = run.info.run_id, self._key(run)
        folder = self._store.model_dir(name)
        for artifact in ("model.json", "weights.pt"):
            self._fetch(id_, artifact, folder)
        record = self._read(id_, "model.json", lambda: self._store.trained_model(name))
        if record.status != "finished":
            raise StoreError(f"run {id_}: its training {record.status}, it has no classifier")
        architecture = str(record.spec.get("architecture", ""))
        if (code := code_in(architecture)) and not self._allow_code:
            raise StoreError(
                f"run {id_}: its network is made by code, that of {code}; say allow_code=True if you trust it and this "
                "run"
            )
        if code:
            allow_code_in(Path.cwd())
        if checksum != record.checksum:
            raise StoreError(f"run {id_}: model.json is of another model than the run; publish it again")
        try:
            parameters = self._store.parameters(name)
        except StoreError as error:
            raise StoreError(f"run {id_}: weights.pt is not what model.json describes; publish it again") from error
        # The last parameters are those of the layer that gives the logits; what does not fit is refused below.
        rows = [int(value.shape[0]) for value in parameters.values() if value.ndim]
        if not (self._classes or rows):
            raise StoreError(f"run {id_}: the shapes of its parameters do not say how many classes; say classes=")
        classes = self._classes or rows[-1]
        try:
            return load_network(self._store, name, classes=classes, device=torch.device(device), precision=precision)
        except ModelError as error:
            if not isinstance(error.__cause__, RuntimeError):
                raise
            raise StoreError(
                f"run {id_}: its parameters do not fit {architecture} with {classes} classes; say classes="
            ) from error

    def _fetch(self, run_id: str, artifact: str, folder: StorePath) -> None:
        folder.local_part.mkdir(parents=True, exist_ok=True)
        self._ask(run_id, lambda client: client.download_artifacts(run_id, artifact, str(folder)))

    def _read(self, run_id: str, artifact: str, read: Callable[[], R | None]) -> R:
        """Return the record that was downloaded."""
        try:
            record = read()
        except StoreError as error:
            raise StoreError(f"run {run_id}: {artifact} is damaged, or of another version of rspipe") from error
        assert record is not None
        return record


def _article(kind: str) -> str:
    return {"study": "a study", "search": "a search", "trial": "a trial"}.get(kind, kind)
