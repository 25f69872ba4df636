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

A record is written last and atomically: what it describes is finished, and finished work is never done again. Every
file but the reports knows its place and its content (`rspipe.storage.files`): whoever reads another one is refused by
DamagedError, and whoever opens the directory to go on sets it aside first (`rspipe.storage.damage`).
"""

import io
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from rspipe.audit.log import CertificationLog, log_content, parse_radii
from rspipe.errors import LogError, StoreError
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
from rspipe.smoothing.sampling import LOOKING
from rspipe.spec import content_id
from rspipe.storage.counts import count_tables, needed_columns, part_name, part_table
from rspipe.storage.files import (
    damaged_error,
    if_there,
    parsed,
    read_content,
    read_parameters,
    read_record,
    read_sealed,
    torch_bytes,
    torch_content,
    write_record,
    write_sealed,
)
from rspipe.storage.paths import StorePath

R = TypeVar("R", bound=Record)

T = TypeVar("T")

STUDY_FILE = "study.json"

_READ_AT_ONCE = 16

_TRIAL = re.compile(r"trial-(\d{1,9})\.json", re.ASCII)

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

    def check_same_model(self, model: str, checksum: str) -> None:
        """Raise StoreError unless the parameters of a model have the checksum that they have for the driver."""
        if self.existing_model(model).checksum != checksum:
            raise StoreError(
                f"{self.model_dir(model)} on {platform.node()} is of another training than for the driver: the run "
                "directory there is not the driver's; choose one on storage that all nodes share with --run-dir"
            )

    # --- models ---------------------------------------------------------------------------------------------------

    def model_dir(self, model: str) -> StorePath:
        """Return the directory of a model."""
        return self.run_dir / "models" / model

    def trained_model(self, model: str) -> TrainedModel | None:
        """Return the record of a finished model, or None."""
        record = self._record(TrainedModel, self.model_dir(model) / "model.json", id=model)
        if record is not None and not model.endswith(f"-{content_id(record.spec)}"):
            error = ValueError("it is of another spec than its name says")
            raise damaged_error(self.model_dir(model) / "model.json", error)
        return record

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
        (folder / "weights.pt").write_bytes(torch_bytes(parameters))
        write_record(folder / "model.json", record.to_json())
        (folder / "checkpoint.pt").unlink(missing_ok=True)

    def mark_failed(self, model: str, message: str) -> TrainedModel:
        """Note that a finished model is no classifier after all; return its record, which nothing counts with."""
        record = replace(self.existing_model(model), status="failed", message=message)
        write_record(self.model_dir(model) / "model.json", record.to_json())
        return record

    def checkpoint(self, model: str) -> Any | None:
        """Return the state that an interrupted training goes on from, or None."""
        return self._sealed(self.model_dir(model) / "checkpoint.pt", torch_content)

    def save_checkpoint(self, model: str, state: Any) -> None:
        """Store the state of a training."""
        self._seal(self.model_dir(model) / "checkpoint.pt", torch_bytes(state))

    def parameters(self, model: str) -> dict[str, torch.Tensor]:
        """Return the parameters of a finished model, on the CPU.

        Raises:
            DamagedError: They are not those that the record describes.
        """
        return read_parameters(self.model_dir(model) / "weights.pt", expected=self.existing_model(model).checksum)

    # --- search ---------------------------------------------------------------------------------------------------

    def trial(self, search: str, index: int) -> Trial | None:
        """Return the record of a finished trial, or None."""
        return self.trial_of(self.run_dir / "search" / search / f"trial-{index}.json")

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
        trials = (self.trial_of(path) for path in (self.run_dir / "search" / search).glob("trial-*.json"))
        return tuple(sorted((trial for trial in trials if trial is not None), key=lambda trial: trial.index))

    def trial_of(self, path: StorePath) -> Trial | None:
        """Return the record in a file of a search, or None."""
        search, name = path.path.split("/")[-2:]
        match = _TRIAL.fullmatch(name)
        return self._record(Trial, path, search=search, index=int(match[1]) if match else None)

    def save_trial(self, trial: Trial) -> None:
        """Store a finished trial."""
        write_record(self.run_dir / "search" / trial.search / f"trial-{trial.index}.json", trial.to_json())
        self._trial_checkpoint(trial.search, trial.parameters).unlink(missing_ok=True)

    def _trial_checkpoint(self, search: str, parameters: Parameters) -> StorePath:
        # Not by position: a search that learns may propose something else in its place when it goes on.
        return self.run_dir / "search" / search / f"checkpoint-{content_id(parameters)}.pt"

    def trial_checkpoint(self, search: str, parameters: Parameters) -> Any | None:
        """Return the state that an interrupted trial goes on from, or None."""
        return self._sealed(self._trial_checkpoint(search, parameters), torch_content)

    def save_trial_checkpoint(self, search: str, parameters: Parameters, state: Any) -> None:
        """Store the state of a trial's training."""
        self._seal(self._trial_checkpoint(search, parameters), torch_bytes(state))

    def search_result(self, search: str, *, trials: int) -> SearchResult | None:
        """Return the record of a search that was finished with so many trials or more, or None."""
        result = self._record(SearchResult, self.run_dir / "search" / search / "result.json", id=search)
        return result if result is not None and result.trials >= trials else None

    def save_search_result(self, result: SearchResult) -> None:
        """Store a finished search; states of trials that were not proposed again go."""
        write_record(self.run_dir / "search" / result.id / "result.json", result.to_json())
        self.forget_trial_states(result.id)

    def forget_trial_states(self, search: str) -> None:
        """Delete the states of all trials of a search."""
        for path in (self.run_dir / "search" / search).glob("checkpoint-*.pt"):
            path.unlink(missing_ok=True)

    # --- ensembles ------------------------------------------------------------------------------------------------

    def moments(self, moments: str) -> dict[str, Any] | None:
        """Return the arrays of a finished pass over the calibration split, or None."""
        return self._sealed(self.run_dir / "moments" / f"{moments}.npz", _arrays)

    def has_moments(self, moments: str) -> bool:
        """Return whether a pass over the calibration split is finished."""
        return (self.run_dir / "moments" / f"{moments}.npz").is_file()

    def save_moments(self, moments: str, arrays: dict[str, Any]) -> None:
        """Store the arrays of a pass over the calibration split."""
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        self._seal(self.run_dir / "moments" / f"{moments}.npz", buffer.getbuffer())

    def ensemble_weights(self, ensemble: str) -> EnsembleWeights | None:
        """Return the record of an ensemble, or None; one whose members were trained again since counts as none."""
        record = self.ensemble_record(ensemble)
        return record if record is not None and self._are(record.members, record.checksums) else None

    def _are(self, members: Sequence[str], checksums: Sequence[str]) -> bool:
        """Return whether models still have the parameters of these checksums."""
        records = map(self.trained_model, members)
        return [record.checksum for record in records if record is not None] == [*checksums]

    def ensemble_record(self, ensemble: str) -> EnsembleWeights | None:
        """Return the record of an ensemble, whatever became of its members, or None."""
        return self._record(EnsembleWeights, self.run_dir / "weights" / f"{ensemble}.json", id=ensemble)

    def save_ensemble_weights(self, record: EnsembleWeights) -> None:
        """Store an ensemble."""
        write_record(self.run_dir / "weights" / f"{record.id}.json", record.to_json())

    def _choice(self, cascade: str) -> StorePath:
        return self.run_dir / "choices" / f"{file_name(cascade)}.json"

    def cascade_choice(self, cascade: str) -> CascadeChoice | None:
        """Return the levels that were chosen for a cascade by its name, or None, as of `ensemble_weights`."""
        record = self.choice_of(self._choice(cascade))
        return record if record is not None and self._are(record.members, record.checksums) else None

    def choice_of(self, path: StorePath) -> CascadeChoice | None:
        """Return the record in a file of choices, or None."""
        record = self._record(CascadeChoice, path)
        if record is not None and path.name != self._choice(record.name).name:
            raise damaged_error(path, ValueError(f"it is that of {record.name!r}"))
        return record

    def save_cascade_choice(self, record: CascadeChoice) -> None:
        """Store the levels that were chosen for a cascade."""
        write_record(self._choice(record.name), record.to_json())

    # --- certificates ---------------------------------------------------------------------------------------------

    def save_counts(self, table: pa.Table) -> None:
        """Store one block of certification counts as a Parquet part of its own, named by the hash of its content."""
        buffer = io.BytesIO()
        pq.write_table(table, buffer, write_page_checksum=True)
        (self.run_dir / "certificates" / part_name(buffer.getbuffer())).write_bytes(buffer.getbuffer())

    def counts(self, columns: Sequence[str] | None = None) -> pa.Table | None:
        """Return all certification counts, or some columns of them; None when there are none.

        Raises:
            DamagedError: A part is not what was written.
            StoreError: A part cannot be reached, or is of another version of rspipe.
        """
        with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
            read = partial(self.counts_of, columns=columns)
            parts = pool.map(read, (self.run_dir / "certificates").glob("part-*.parquet"))
            tables = [table for table in parts if table is not None]
        return pa.concat_tables(tables) if tables else None

    def counts_of(self, part: StorePath, columns: Sequence[str] | None = None) -> pa.Table | None:
        """Return the counts of one part; None where another process has set it aside. Errors are those of `counts`."""
        return if_there(lambda: parsed(part, partial(part_table, path=part, columns=columns)))

    def save_images_to_certify(self, images: int, *, test_part: str) -> None:
        """Store how many test images the study certifies, which its data set says, and what identifies those of it all.

        Raises:
            StoreError: Images of another test part were certified here: a number would not mean the same image.
        """
        self.check_test_part(test_part)
        write_record(self.run_dir / "images.json", {"images": images, "test_part": test_part})

    def check_test_part(self, test_part: str) -> None:
        """Raise StoreError where other test images than these were certified here, by what identifies them."""
        if self._images().get("test_part", test_part) != test_part and self.counted():
            raise StoreError(
                f"the test images differ in number, names, labels or content from those certified in {self.run_dir}; "
                "put those in their place, or take another run directory"
            )

    def images_to_certify(self) -> int | None:
        """Return how many test images the study certifies; None before certification has begun."""
        return self._images().get("images")

    def _images(self) -> dict[str, Any]:
        return if_there(lambda: read_content(self.run_dir / "images.json")) or {}

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
        write_record(self.run_dir / "cascades" / f"{record.id}.json", content)

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
        if self._sealed(copy, bytes) != content:
            self._seal(copy, content)

    def published(self, log: str) -> CertificationLog | None:
        """Return the copy of a published log, None without one.

        Raises:
            LogError: It is no certification log with radii.
        """
        content = self._sealed(self._published(log), bytes)
        return None if content is None else parse_radii(content, name=log)

    # --- attacks --------------------------------------------------------------------------------------------------

    def boundary_checks(self) -> tuple[BoundaryCheck, ...]:
        """Return the records of all attacks on certified classifiers."""
        names = [path.name.removesuffix(".json") for path in (self.run_dir / "boundary").glob("*.json")]
        return tuple(record for name in names if (record := self.boundary_check(name)) is not None)

    def boundary_check(self, classifier: str) -> BoundaryCheck | None:
        """Return the record of the attacks on a classifier, or None."""
        return self._record(BoundaryCheck, self.run_dir / "boundary" / f"{classifier}.json", classifier=classifier)

    def save_boundary_check(self, record: BoundaryCheck) -> None:
        """Store the result of attacks on a classifier, in place of that of earlier ones."""
        write_record(self.run_dir / "boundary" / f"{record.classifier}.json", record.to_json())

    # --- common ---------------------------------------------------------------------------------------------------

    def check_seal(self, path: StorePath) -> None:
        """Raise DamagedError where a sealed file is not what was written."""
        self._sealed(path, len)

    @staticmethod
    def _record(kind: type[R], path: StorePath, **place: Any) -> R | None:
        return if_there(lambda: read_record(path, kind, **place))

    def _place(self, path: StorePath) -> str:
        return path.path.removeprefix(f"{self.run_dir.path}/")

    def _seal(self, path: StorePath, content: bytes | memoryview) -> None:
        write_sealed(path, content, place=self._place(path))

    def _sealed(self, path: StorePath, parse: Callable[[bytes], T]) -> T | None:
        return if_there(lambda: read_sealed(path, parse, place=self._place(path)))


def _arrays(content: bytes) -> dict[str, Any]:
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return dict(arrays)
