"""The run directory: the truth of a study.

    study.toml          the study file as passed
    study.json          its validated content and id
    environment.json    commit, packages, machine
    models/<id>/        model.json, weights.pt; checkpoint.pt while training
    search/<id>/        trial-<k>.json, result.json; checkpoint-<hyper-parameters>.pt while a trial trains
    moments/<id>.npz    moments of margins on the calibration split
    weights/<id>.json   ensembles
    certificates/       one Parquet part per finished block of images
    boundary/<id>.json  attacks inside and beyond certified radii, where they were asked for
    lock                held by the running process

A record is written last and atomically: what it describes is finished, and finished work is never done again.
"""

import hashlib
import json
import logging
import platform
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter

from rspipe.derivation import ClassifierCounts
from rspipe.errors import DamagedError, StoreError
from rspipe.records import BoundaryCheck, EnsembleWeights, Record, SearchResult, TrainedModel, Trial
from rspipe.space import Parameters
from rspipe.spec import RuleSpec, content_id
from rspipe.stages.files import (
    damaged,
    found_json,
    load_torch,
    read_json,
    save_torch,
    write_atomically,
    write_json,
    write_text,
)
from rspipe.stages.locks import alone
from rspipe.stages.places import Place, fetched, opened, set_aside
from rspipe.study_config import StudyConfig
from rspipe.summaries import CertifiedClassifier, certified_classifier

R = TypeVar("R", bound=Record)

_log = logging.getLogger(__name__)

_STUDY = "study.json"
_HISTOGRAMS = ("selection", "pilot", "estimation")
_NUMBERS = ("sigma", "n0", "n", "alpha", "seed", "seconds")
_COLUMNS = ("classifier", "example", "key", "kind", "label", "stop", "rule_parameters", *_HISTOGRAMS, *_NUMBERS)
_NOTED = ("marks", "prefix")
_SOFT = ("probability_sum", "probability_square")
_RULE: TypeAdapter[RuleSpec] = TypeAdapter(RuleSpec)
_VANISHED = "if workers finished it, they do not share the run directory: choose one that all nodes see with --run-dir"


def checksum(parameters: dict[str, torch.Tensor]) -> str:
    """Return sixteen hex digits that identify parameters (SHA-256 of names, types, shapes and bytes)."""
    found = hashlib.sha256()
    for name, tensor in sorted(parameters.items()):
        found.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


class Store:
    """A run directory. Cheap to make from its path, so workers get the path and make their own."""

    def __init__(self, run_dir: Place) -> None:
        if isinstance(run_dir, Path) and not run_dir.is_absolute():
            raise ValueError(f"run_dir must be absolute, got {run_dir}")
        self.run_dir = run_dir

    def check_shared(self) -> None:
        """Raise StoreError unless this process sees the run directory: a worker may be on another machine."""
        if not (self.run_dir / _STUDY).is_file():
            raise StoreError(
                f"run directory {self.run_dir} is not visible on {platform.node()}; "
                "choose one on storage that all nodes share with --run-dir"
            )

    def check_owner(self, study: StudyConfig) -> None:
        """Raise StoreError unless this is the run directory of a study: for those who read it without opening it."""
        if not (self.run_dir / _STUDY).is_file():
            raise StoreError(f"{self.run_dir} is no run directory; run the study first, or name another with --run-dir")
        _check_owner(self.run_dir, study)

    def study(self) -> StudyConfig:
        """Return the study that this run directory was made with. Paths of data, which are not kept, are empty.

        Raises:
            StoreError: It is no run directory, or of another version of rspipe.
        """
        path = self.run_dir / _STUDY
        if not path.is_file():
            raise StoreError(f"{self.run_dir} is no run directory; give one that a study was run in")
        content = read_json(path)
        try:
            kept = dict(content["study"])
            if kept["data"]["name"] != "digits":
                kept["data"] = {"folder": "", **kept["data"]}
            study = StudyConfig.model_validate(kept)
            known = str(content["id"])
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{path}: written by another version of rspipe; run the study again") from error
        if study.id != known:
            raise StoreError(f"{path}: {known} has become {study.id} in this version of rspipe; run the study again")
        return study

    # --- models ---------------------------------------------------------------------------------------------------

    def model_dir(self, model: str) -> Place:
        """Return the directory of a model."""
        return self.run_dir / "models" / model

    def trained_model(self, model: str) -> TrainedModel | None:
        """Return the record of a finished model, or None."""
        return self._record(TrainedModel, self.model_dir(model) / "model.json")

    def existing_model(self, model: str) -> TrainedModel:
        """Return the record of a model that has been trained.

        Raises:
            StoreError: It is not there.
        """
        record = self.trained_model(model)
        if record is None:
            raise StoreError(f"{self.model_dir(model)}: the record of a trained model is missing; {_VANISHED}")
        return record

    def save_model(self, record: TrainedModel, parameters: dict[str, torch.Tensor]) -> None:
        """Store a finished model: parameters first, record last."""
        folder = self.model_dir(record.id)
        save_torch(folder / "weights.pt", parameters)
        write_json(folder / "model.json", record.to_json())
        (folder / "checkpoint.pt").unlink(missing_ok=True)

    def checkpoint(self, model: str) -> Any | None:
        """Return the state that an interrupted training goes on from, or None; a damaged one counts as none."""
        return _state(self.model_dir(model) / "checkpoint.pt")

    def save_checkpoint(self, model: str, state: Any) -> None:
        """Store the state of a training."""
        save_torch(self.model_dir(model) / "checkpoint.pt", state)

    def parameters(self, model: str) -> dict[str, torch.Tensor]:
        """Return the parameters of a finished model, on the CPU.

        Raises:
            StoreError: They are not those that the record describes.
        """
        folder, record = self.model_dir(model), self.existing_model(model)
        try:
            parameters: dict[str, torch.Tensor] = load_torch(folder / "weights.pt")
            intact = checksum(parameters) == record.checksum
        except DamagedError:
            intact = False
        if not intact:
            # The record alone would make the model count as finished.
            raise StoreError(f"{folder}: weights.pt is not what model.json describes; delete the folder and run again")
        return parameters

    # --- search ---------------------------------------------------------------------------------------------------

    def trial(self, search: str, index: int) -> Trial | None:
        """Return the record of a finished trial, or None."""
        return self._record(Trial, self.run_dir / "search" / search / f"trial-{index}.json")

    def existing_trial(self, search: str, index: int) -> Trial:
        """Return the record of a trial that has ended.

        Raises:
            StoreError: It is not there.
        """
        trial = self.trial(search, index)
        if trial is None:
            raise StoreError(f"{self.run_dir / 'search' / search}: the record of trial {index} is missing; {_VANISHED}")
        return trial

    def trials(self, search: str) -> tuple[Trial, ...]:
        """Return the records of all trials of a search that have ended, by index."""
        paths = (self.run_dir / "search" / search).glob("trial-*.json")
        found = [trial for path in paths if (trial := self._record(Trial, path)) is not None]
        return tuple(sorted(found, key=lambda trial: trial.index))

    def save_trial(self, trial: Trial) -> None:
        """Store a finished trial."""
        write_json(self.run_dir / "search" / trial.search / f"trial-{trial.index}.json", trial.to_json())
        self._trial_checkpoint(trial.search, trial.parameters).unlink(missing_ok=True)

    def _trial_checkpoint(self, search: str, parameters: Parameters) -> Place:
        # Not by position: a search that learns may propose something else in its place when it goes on.
        return self.run_dir / "search" / search / f"checkpoint-{content_id(parameters)}.pt"

    def trial_checkpoint(self, search: str, parameters: Parameters) -> Any | None:
        """Return the state that an interrupted trial goes on from, or None; a damaged one counts as none."""
        return _state(self._trial_checkpoint(search, parameters))

    def save_trial_checkpoint(self, search: str, parameters: Parameters, state: Any) -> None:
        """Store the state of a trial's training."""
        save_torch(self._trial_checkpoint(search, parameters), state)

    def search_result(self, search: str, *, trials: int) -> SearchResult | None:
        """Return the record of a search that was finished with so many trials or more, or None."""
        found = self._record(SearchResult, self.run_dir / "search" / search / "result.json")
        return found if found is not None and found.trials >= trials else None

    def save_search_result(self, result: SearchResult) -> None:
        """Store a finished search; states of trials that were not proposed again go."""
        folder = self.run_dir / "search" / result.id
        write_json(folder / "result.json", result.to_json())
        for path in folder.glob("checkpoint-*.pt"):
            path.unlink(missing_ok=True)

    # --- ensembles ------------------------------------------------------------------------------------------------

    def moments(self, moments: str) -> dict[str, Any] | None:
        """Return the arrays of a finished pass over the calibration split, or None."""
        path = self.run_dir / "moments" / f"{moments}.npz"
        if not path.is_file():
            return None
        try:
            with opened(path) as file, np.load(file, allow_pickle=False) as arrays:
                return dict(arrays)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise damaged(path, error) from error

    def save_moments(self, moments: str, arrays: dict[str, Any]) -> None:
        """Store the arrays of a pass over the calibration split."""

        def write(path: Path) -> None:
            with path.open("wb") as file:
                np.savez(file, **arrays)

        write_atomically(self.run_dir / "moments" / f"{moments}.npz", write)

    def ensemble_weights(self, ensemble: str) -> EnsembleWeights | None:
        """Return the record of an ensemble, or None; one of members that were trained anew since counts as none."""
        record = self._record(EnsembleWeights, self.run_dir / "weights" / f"{ensemble}.json")
        if record is None:
            return None
        members = [self.trained_model(member) for member in record.members]
        return record if record.checksums == tuple(member.checksum for member in members if member) else None

    def save_ensemble_weights(self, record: EnsembleWeights) -> None:
        """Store an ensemble."""
        write_json(self.run_dir / "weights" / f"{record.id}.json", record.to_json())

    # --- certificates ---------------------------------------------------------------------------------------------

    def save_counts(self, table: pa.Table) -> None:
        """Store one block of certification counts as a Parquet part of its own, named by its content."""
        key = repr([table[name].to_pylist() for name in ("example", "classifier", "key")])
        name = hashlib.sha256(key.encode()).hexdigest()[:16]
        write_atomically(
            self.run_dir / "certificates" / f"part-{name}.parquet", lambda path: pq.write_table(table, path)
        )

    def counts(self, columns: Sequence[str] | None = None) -> pa.Table | None:
        """Return all certification counts, or some columns of them; None when there are none.

        A damaged part is set aside, to be redone.

        Raises:
            StoreError: A part cannot be read for another reason.
        """
        tables, wanted = [], None if columns is None else list(columns)
        for path, source in fetched(sorted((self.run_dir / "certificates").glob("part-*.parquet"), key=str)):
            try:
                tables.append(pq.read_table(source, columns=wanted, partitioning=None))
            except pa.ArrowInvalid as error:
                _log.warning("warning: %s is damaged (%s) and set aside; its images are certified again", path, error)
                set_aside(path)
            except OSError as error:
                raise StoreError(f"{path}: could not be read: {error}; mend that and run again") from error
        return pa.concat_tables(tables) if tables else None

    def counted(self) -> set[tuple[str, str, int]]:
        """Return the (classifier, key, example) triples that have counts."""
        names = ("classifier", "key", "example")
        table = self.counts(names)
        return set() if table is None else set(zip(*(table[name].to_pylist() for name in names), strict=True))

    def classifier_counts(self, keys: Mapping[str, str], *, complete: bool = False) -> tuple[ClassifierCounts, ...]:
        """Return the counts of every classifier of `keys` under its certification key, ordered by example.

        Args:
            keys: Key by classifier.
            complete: Whether to read what only other certificates than the rule's own are derived from.

        Raises:
            StoreError: An example has two different counts under one key.
        """
        known = self.counts(["rule"])
        if known is None:
            return ()
        grid = "radius_grid" in pc.unique(known["rule"]).to_pylist()
        table = self.counts([*_COLUMNS, *(_NOTED if complete or grid else ()), *(_SOFT if complete else ())])
        assert table is not None
        wanted = pc.is_in(table["key"], pa.array(sorted(set(keys.values()))))
        # Each is a copy of everything.
        table = table if pc.all(wanted).as_py() else table.filter(wanted)
        table = table.combine_chunks()
        found = []
        for classifier, rows in _by_classifier(table):
            ours = rows[rows["key"] == keys.get(classifier)]
            if (example := _disputed(ours)) is not None:
                raise StoreError(
                    f"{self.run_dir / 'certificates'}: {classifier} has two different counts for image {example}; "
                    "two processes wrote here: delete the folder and certify again"
                )
            if len(ours):
                found.append(_classifier_counts(ours.drop_duplicates("example")))
        return tuple(found)

    def certified(self, keys: Mapping[str, str]) -> tuple[CertifiedClassifier, ...]:
        """Return the certificates of every classifier of `keys` under its certification key, derived from counts.

        Raises:
            StoreError: An example has two different counts under one key.
        """
        return tuple(certified_classifier(counts) for counts in self.classifier_counts(keys))

    # --- attacks --------------------------------------------------------------------------------------------------

    def boundary_checks(self) -> tuple[BoundaryCheck, ...]:
        """Return the records of all attacks on certified classifiers."""
        paths: list[Place] = sorted((self.run_dir / "boundary").glob("*.json"), key=str)
        return tuple(record for path in paths if (record := self._record(BoundaryCheck, path)) is not None)

    def save_boundary_check(self, record: BoundaryCheck) -> None:
        """Store what attacks on a classifier found, in place of what earlier ones did."""
        write_json(self.run_dir / "boundary" / f"{record.classifier}.json", record.to_json())

    # --- common ---------------------------------------------------------------------------------------------------

    @staticmethod
    def _record(kind: type[R], path: Place) -> R | None:
        content = found_json(path)
        if content is None:
            return None
        try:
            return kind.from_json(content)
        except TypeError as error:
            raise StoreError(f"{path}: written by another version of rspipe ({error}); start a new run") from error


def _state(path: Place) -> Any | None:
    """Return the state of a training that was saved at a path; a damaged one is deleted."""
    try:
        return load_torch(path) if path.is_file() else None
    except DamagedError:
        path.unlink(missing_ok=True)
        return None


def _disputed(rows: Any) -> int | None:
    """Return an example that has two different counts in a data frame of one classifier; None where there is none."""
    for example, same in rows[rows.duplicated("example", keep=False)].groupby("example"):
        counts = {(*map(int, a), *map(int, b)) for a, b in zip(same["selection"], same["estimation"], strict=True)}
        if len(counts) > 1:
            return int(example)
    return None


def _by_classifier(table: pa.Table) -> Iterator[tuple[str, Any]]:
    """Yield each classifier of a table in one chunk and a data frame of its rows, ordered by example.

    One at a time: as Python's objects the lists of counts take ten times the memory that they have in the table.
    """
    encoded = table["classifier"].combine_chunks().dictionary_encode()
    codes, names = encoded.indices.to_numpy(), encoded.dictionary.to_pylist()
    order = np.lexsort((table["example"].to_numpy(), codes))
    bounds = np.searchsorted(codes[order], np.arange(len(names) + 1))
    for code in sorted(range(len(names)), key=names.__getitem__):
        yield names[code], table.take(order[bounds[code] : bounds[code + 1]]).to_pandas()


def _classifier_counts(rows: Any) -> ClassifierCounts:
    """Return the counts that a data frame of one classifier, ordered by example, holds."""

    def stacked(name: str, kind: type[np.int64] | type[np.float64]) -> NDArray[Any]:
        return np.stack(rows[name].to_list()).astype(kind)

    first = rows.iloc[0]
    selection = stacked("selection", np.int64)
    images, classes = selection.shape
    marks, prefix = np.zeros(0, np.int64), np.zeros((images, 0, classes), np.int64)
    if "marks" in rows:
        marks = max(rows["marks"], key=len).astype(np.int64)
        prefix = np.full((images, len(marks), classes), -1, np.int64)
        for row, noted in enumerate(rows["prefix"]):
            reached = noted.reshape(-1, classes)
            prefix[row, : len(reached)] = reached
    soft = "probability_sum" in rows
    nothing = np.zeros((images, 0))
    return ClassifierCounts(
        id=str(first["classifier"]),
        kind="model" if first["kind"] == "model" else "ensemble",
        sigma=float(first["sigma"]),
        rule=_RULE.validate_json(first["rule_parameters"]),
        n0=int(first["n0"]),
        n=int(first["n"]),
        alpha=float(first["alpha"]),
        seed=int(first["seed"]),
        example=rows["example"].to_numpy(np.int64),
        label=rows["label"].to_numpy(np.int64),
        selection=selection,
        pilot=stacked("pilot", np.int64),
        estimation=stacked("estimation", np.int64),
        stop=rows["stop"].to_numpy(str),
        marks=marks,
        prefix=prefix,
        probability_sum=stacked("probability_sum", np.float64) if soft else nothing,
        probability_square=stacked("probability_square", np.float64) if soft else nothing,
        seconds=float(rows["seconds"].sum()),
    )


def _first_difference(old: Any, new: Any, place: str = "") -> str:
    """Return a few words on the first place at which two JSON-like values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            if old.get(key) != new.get(key):
                return _first_difference(old.get(key), new.get(key), f"{place}.{key}" if place else key)
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            if before != after:
                return _first_difference(before, after, f"{place}[{index}]")

    def short(value: Any) -> str:
        text = json.dumps(value)
        return text if len(text) <= 40 else f"{text[:37]}..."

    return f"{place}: {short(old)} there, {short(new)} here"


@contextmanager
def open_store(run_dir: Place, study: StudyConfig, *, source: str, environment: dict[str, str]) -> Iterator[Store]:
    """Open a run directory for a study, alone: made when new, gone on with when it is the same study's.

    Args:
        run_dir: Absolute path, or a place in an object store.
        study: What runs in it.
        source: Text of the study file, kept beside the results.
        environment: What the numbers were made with; kept of the first run.

    Raises:
        StoreError: It belongs to another study, is in use by another process, or cannot be written.
    """
    store = Store(run_dir)
    with alone(run_dir):
        _adopt(store, study, source=source, environment=environment)
        yield store


def _adopt(store: Store, study: StudyConfig, *, source: str, environment: dict[str, str]) -> None:
    """Mark a run directory as the study's, or find out that it is another's; say what it was begun with."""
    run_dir, content = store.run_dir, {"id": study.id, "study": study.model_dump(mode="json")}
    first = run_dir / "environment.json"
    if (run_dir / _STUDY).is_file():
        _check_owner(run_dir, study)
        if first.is_file():
            _note_changes(run_dir, read_json(first), environment)
    if not first.is_file():
        write_json(first, environment)
    # What a study is called and which radii it reports may change within its identity.
    write_text(run_dir / "study.toml", source)
    write_json(run_dir / _STUDY, content)


def _check_owner(run_dir: Place, study: StudyConfig) -> None:
    known = read_json(run_dir / _STUDY)
    if known.get("id") != study.id:
        identity = study.identity
        before = {name: value for name, value in known.get("study", {}).items() if name in identity}
        difference = _first_difference(before, identity)
        raise StoreError(
            f"run directory {run_dir} belongs to study {known.get('id')}, not to {study.id} "
            f"({difference}); choose another with --run-dir"
        )


def _note_changes(run_dir: Place, before: dict[str, str], now: dict[str, str]) -> None:
    """Keep an environment that differs from the first, and warn: numbers of both go into one study."""
    changed = {name: now[name] for name in now if name not in ("started", "cores") and before.get(name) != now[name]}
    if not changed:
        return
    write_json(run_dir / f"environment-{content_id(changed)}.json", now)
    told = ", ".join(
        f"{name} {before.get(name, 'unknown')} then, {value} now" for name, value in sorted(changed.items())
    )
    _log.warning("warning: %s was begun in another environment (%s); what is finished is kept as it is", run_dir, told)
