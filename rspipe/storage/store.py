"""The run directory: the truth of a study.

    study.toml          the study file as passed
    study.json          its validated content and id
    environment.json    commit, packages, machine
    models/<id>/        model.json, weights.pt; checkpoint.pt while training
    search/<id>/        trial-<k>.json, result.json; checkpoint-<hyper-parameters>.pt while a trial trains
    moments/<id>.npz    moments of margins on the calibration split
    weights/<id>.json   ensembles
    choices/<id>.json   levels of cascades that were chosen on the calibration split
    certificates/       one Parquet part per finished block of images
    images.json         how many images are certified in the end
    cascades/<id>.json  what cascades over noise levels claim by these
    published/<id>.tsv  logs of others that the study compares with
    boundary/<id>.json  attacks inside and beyond certified radii, where there were any
    lock                held by the running process

A record is written last and atomically: what it describes is finished, and finished work is never done again.
"""

import hashlib
import io
import logging
import platform
import zipfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from rspipe.audit.log import CertificationLog, log_content, parse_radii
from rspipe.errors import DamagedError, LogError, StoreError, first_line
from rspipe.records import (
    BoundaryCheck,
    CascadeChoice,
    EnsembleWeights,
    Record,
    SearchResult,
    TrainedModel,
    Trial,
    file_name,
)
from rspipe.search.space import Parameters
from rspipe.smoothing.cascades import CertifiedCascade
from rspipe.smoothing.counts import CountTable
from rspipe.smoothing.derivation import CertifiedClassifier, certified_classifier
from rspipe.smoothing.sampling import LOOKING
from rspipe.spec import content_id
from rspipe.storage.counts import count_tables, needed_columns
from rspipe.storage.files import (
    checksum,
    damaged_error,
    load_torch,
    read_json_if_there,
    save_torch,
    write_json,
)
from rspipe.storage.paths import StorePath

R = TypeVar("R", bound=Record)


_log = logging.getLogger(__name__)


STUDY_FILE = "study.json"

_READ_AT_ONCE = 16

_VANISHED = "if workers finished it, they do not share the run directory: choose one that all nodes see with --run-dir"


class Store:
    """A run directory. Cheap to make from its path, so workers get the path's text and make their own.

    Args:
        run_dir: A folder, or an address in an object store.

    Raises:
        StoreError: It is an address that cannot be used.
    """

    def __init__(self, run_dir: StorePath | Path | str) -> None:
        self.run_dir = StorePath.of(run_dir)

    def check_shared(self) -> None:
        """Raise StoreError unless this process sees the run directory: a worker may be on another machine."""
        if not (self.run_dir / STUDY_FILE).is_file():
            raise StoreError(
                f"run directory {self.run_dir} is not visible on {platform.node()}; "
                "choose one on storage that all nodes share with --run-dir"
            )

    # --- models ---------------------------------------------------------------------------------------------------

    def model_dir(self, model: str) -> StorePath:
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
        trials = [trial for path in paths if (trial := self._record(Trial, path)) is not None]
        return tuple(sorted(trials, key=lambda trial: trial.index))

    def save_trial(self, trial: Trial) -> None:
        """Store a finished trial."""
        write_json(self.run_dir / "search" / trial.search / f"trial-{trial.index}.json", trial.to_json())
        self._trial_checkpoint(trial.search, trial.parameters).unlink(missing_ok=True)

    def _trial_checkpoint(self, search: str, parameters: Parameters) -> StorePath:
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
        result = self._record(SearchResult, self.run_dir / "search" / search / "result.json")
        return result if result is not None and result.trials >= trials else None

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
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
                return dict(arrays)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise damaged_error(path, error) from error

    def save_moments(self, moments: str, arrays: dict[str, Any]) -> None:
        """Store the arrays of a pass over the calibration split."""
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        (self.run_dir / "moments" / f"{moments}.npz").write_bytes(buffer.getbuffer())

    def ensemble_weights(self, ensemble: str) -> EnsembleWeights | None:
        """Return the record of an ensemble, or None; one whose members were trained again since counts as none."""
        record = self._record(EnsembleWeights, self.run_dir / "weights" / f"{ensemble}.json")
        return record if record is not None and self._are(record.members, record.checksums) else None

    def _are(self, members: Sequence[str], checksums: Sequence[str]) -> bool:
        """Return whether models still have the parameters of these checksums."""
        records = map(self.trained_model, members)
        return [record.checksum for record in records if record is not None] == [*checksums]

    def save_ensemble_weights(self, record: EnsembleWeights) -> None:
        """Store an ensemble."""
        write_json(self.run_dir / "weights" / f"{record.id}.json", record.to_json())

    def _choice(self, cascade: str) -> StorePath:
        return self.run_dir / "choices" / f"{file_name(cascade)}.json"

    def cascade_choice(self, cascade: str) -> CascadeChoice | None:
        """Return the levels that were chosen for a cascade by its name, or None, as of `ensemble_weights`."""
        record = self._record(CascadeChoice, self._choice(cascade))
        return record if record is not None and self._are(record.members, record.checksums) else None

    def save_cascade_choice(self, record: CascadeChoice) -> None:
        """Store the levels that were chosen for a cascade."""
        write_json(self._choice(record.name), record.to_json())

    # --- certificates ---------------------------------------------------------------------------------------------

    def save_counts(self, table: pa.Table) -> None:
        """Store one block of certification counts as a Parquet part of its own, named by its content."""
        key = repr([table[name].to_pylist() for name in ("example", "classifier", "key")])
        name = hashlib.sha256(key.encode()).hexdigest()[:16]
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        (self.run_dir / "certificates" / f"part-{name}.parquet").write_bytes(buffer.getbuffer())

    def counts(self, columns: Sequence[str] | None = None) -> pa.Table | None:
        """Return all certification counts, or some columns of them; None when there are none.

        A damaged part is set aside, to be redone.

        Raises:
            StoreError: A part cannot be reached.
        """

        def read(path: StorePath) -> pa.Table | None:
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                # Set aside by another process since it was listed.
                return None
            try:
                # From memory: whatever is refused now is in the content.
                return pq.read_table(pa.BufferReader(content), columns=columns and list(columns), partitioning=None)
            except (pa.ArrowInvalid, OSError) as error:
                _log.warning(
                    "warning: %s is damaged (%s) and set aside; its images are certified again", path, first_line(error)
                )
                path.set_aside()
                return None

        with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
            parts = pool.map(read, (self.run_dir / "certificates").glob("part-*.parquet"))
            tables = [table for table in parts if table is not None]
        return pa.concat_tables(tables) if tables else None

    def save_images_to_certify(self, images: int) -> None:
        """Store how many test images the study certifies, which its data set says."""
        write_json(self.run_dir / "images.json", images)

    def images_to_certify(self) -> int | None:
        """Return how many test images the study certifies; None before certification has begun."""
        images = read_json_if_there(self.run_dir / "images.json")
        return images if isinstance(images, int) else None

    def counted(self) -> set[tuple[str, str, int]]:
        """Return the (classifier, key, example) triples that have counts."""
        names = ("classifier", "key", "example")
        table = self.counts(names)
        return set() if table is None else set(zip(*(table[name].to_pylist() for name in names), strict=True))

    def classifier_counts(self, keys: Mapping[str, str], *, complete: bool = False) -> tuple[CountTable, ...]:
        """Return the counts of every classifier of `keys` under its certification key, ordered by example.

        Args:
            keys: Key by classifier.
            complete: Whether to read what only other certificates than the rule's own are derived from.

        Raises:
            StoreError: An example has two different counts under one key.
        """
        rules = self.counts(["rule"])
        if rules is None:
            return ()
        looking = not {*LOOKING}.isdisjoint(pc.unique(rules["rule"]).to_pylist())
        rows = self.counts(needed_columns(marks=complete or looking, soft=complete))
        assert rows is not None
        wanted = pc.is_in(rows["key"], pa.array(sorted(set(keys.values())), pa.string()))
        # Each is a copy of everything.
        rows = rows if pc.all(wanted).as_py() else rows.filter(wanted)
        return tuple(count_tables(rows.combine_chunks(), keys, folder=self.run_dir / "certificates"))

    def certified(self, keys: Mapping[str, str]) -> tuple[CertifiedClassifier, ...]:
        """Return the certificates of every classifier of `keys` under its certification key, derived from counts.

        Raises:
            StoreError: An example has two different counts under one key.
        """
        return tuple(certified_classifier(counts) for counts in self.classifier_counts(keys))

    def save_cascade(self, cascade: CertifiedCascade, *, keys: Mapping[str, str], alpha: float) -> None:
        """Store the claims of a cascade, with the keys of the counts that they follow from, for whoever checks them."""
        classifier, record = cascade.classifier, cascade.record
        claims = {
            "example": classifier.example.tolist(),
            "level": cascade.level.tolist(),
            "prediction": classifier.prediction.tolist(),
            "radius": classifier.radius.tolist(),
        }
        content = {**record.to_json(), "keys": [keys[id_] for id_ in record.classifiers], "alpha": alpha, **claims}
        write_json(self.run_dir / "cascades" / f"{record.id}.json", content)

    # --- published ------------------------------------------------------------------------------------------------

    def _published(self, log: str) -> StorePath:
        return self.run_dir / "published" / f"{content_id(log)}.tsv"

    def keep_published(self, log: str) -> None:
        """Keep a copy of a published log, named as in the study: what is reported needs nothing else.

        Raises:
            LogError: It cannot be read, and no copy is there; or it is no log with radii.
        """
        copy = self._published(log)
        try:
            content = log_content(Path(log))
        except LogError:
            if copy.is_file():
                return
            raise
        parse_radii(content, name=log)
        if not copy.is_file() or copy.read_bytes() != content:
            copy.write_bytes(content)

    def published(self, log: str) -> CertificationLog | None:
        """Return the copy of a published log, None without one.

        Raises:
            LogError: It is no certification log with radii.
        """
        copy = self._published(log)
        return parse_radii(copy.read_bytes(), name=log) if copy.is_file() else None

    # --- attacks --------------------------------------------------------------------------------------------------

    def boundary_checks(self) -> tuple[BoundaryCheck, ...]:
        """Return the records of all attacks on certified classifiers."""
        paths = (self.run_dir / "boundary").glob("*.json")
        return tuple(record for path in paths if (record := self._record(BoundaryCheck, path)) is not None)

    def save_boundary_check(self, record: BoundaryCheck) -> None:
        """Store the result of attacks on a classifier, in place of that of earlier ones."""
        write_json(self.run_dir / "boundary" / f"{record.classifier}.json", record.to_json())

    # --- common ---------------------------------------------------------------------------------------------------

    @staticmethod
    def _record(kind: type[R], path: StorePath) -> R | None:
        content = read_json_if_there(path)
        if content is None:
            return None
        try:
            return kind.from_json(content)
        except TypeError as error:
            raise StoreError(f"{path}: written by another version of rspipe ({error}); start a new run") from error


def _state(path: StorePath) -> Any | None:
    """Return the state of a training that was saved at a path; a damaged one is deleted."""
    try:
        return load_torch(path) if path.is_file() else None
    except DamagedError:
        path.unlink(missing_ok=True)
        return None
