"""Opening a run directory: it belongs to one study and one process at a time."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rspipe.errors import DamagedError, StoreError
from rspipe.spec import content_id
from rspipe.storage.damage import check_nothing_in_the_way, set_damaged_aside
from rspipe.storage.files import read_content, write_record
from rspipe.storage.locks import exclusive
from rspipe.storage.paths import StorePath
from rspipe.storage.store import STUDY_FILE, Store
from rspipe.study.config import StudyConfig
from rspipe.study.mistakes import mistakes_in

_log = logging.getLogger(__name__)


_MARK = b'"sha256"'
"""Of every record that rspipe writes."""

_READ_OTHERWISE = "read it with the version that wrote it, or run the study again"


@contextmanager
def open_store(
    run_dir: StorePath | Path | str, study: StudyConfig, *, source: str, environment: dict[str, str]
) -> Iterator[Store]:
    """Open a run directory for a study and this process alone: made when new, resumed when it is the same study's.

    Files that are damaged are set aside before, with a warning each that says whether what was in them is done again.

    Args:
        run_dir: A folder, or an address in an object store.
        study: What runs in it.
        source: Text of the study file, kept beside the results.
        environment: What the numbers are made with; that of the first run is kept.

    Raises:
        StoreError: It belongs to another study or no longer says to which, is in use by another process, has files of
            something else that would be written over, or cannot be written.
        LogError: A published log that the study names cannot be read.
    """
    store = Store(run_dir)
    with exclusive(store.run_dir):
        # Before anything is renamed or deleted.
        _check_owner(store.run_dir, study)
        if not _has_begun(store.run_dir):
            check_nothing_in_the_way(store.run_dir, source)
        store.run_dir.forget_half_written()
        set_damaged_aside(store, study.search_specs)
        _forget_ended(store, study)
        _adopt(store, study, source=source, environment=environment)
        yield store


def _forget_ended(store: Store, study: StudyConfig) -> None:
    """Delete the states of trainings that have ended: a process that died before it did so has left them."""
    for folder in (store.run_dir / "models").folders():
        states = folder.glob("checkpoint.pt")
        if states and (folder / "model.json").is_file():
            for path in states:
                path.unlink(missing_ok=True)
    for search in study.search_specs:
        # While a search trains more trials, its record is that of those before.
        if store.search_result(search.id, trials=search.trials) is not None:
            store.forget_trial_states(search.id)


def begun_id(store: Store) -> str | None:
    """Return the id of the study that a run directory belongs to; None where there is none, or it cannot be told."""
    path = store.run_dir / STUDY_FILE
    try:
        return str(read_content(path).get("id")) if path.is_file() else None
    except DamagedError:
        return None


def read_study(store: Store) -> StudyConfig:
    """Return the study that a run directory was made with, whose data are where they were then.

    Nothing that it names is imported: neither networks, nor images, nor checkpoints are needed for what is stored.

    Raises:
        StoreError: It is no run directory, or of another version of rspipe.
    """
    path = store.run_dir / STUDY_FILE
    if not path.is_file():
        raise StoreError(f"{store.run_dir} is no run directory; give one that a study was run in")
    content = read_content(path)
    try:
        kept, known = dict(content["study"]), str(content["id"])
        if kept["data"]["name"] != "digits":
            kept["data"] = {**kept["data"], "folder": content.get("folder", "")}
        study = StudyConfig.model_validate(kept)
    except ValidationError as error:
        raise StoreError(
            f"{path}: written by another version of rspipe ({mistakes_in(error)[0]}); {_READ_OTHERWISE}"
        ) from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{path}: written by another version of rspipe; {_READ_OTHERWISE}") from error
    if study.id != known:
        raise StoreError(f"{path}: {known} is {study.id} in this version of rspipe; {_READ_OTHERWISE}")
    return study


def _adopt(store: Store, study: StudyConfig, *, source: str, environment: dict[str, str]) -> None:
    """Mark a run directory as the study's; warn of another environment."""
    run_dir, content = store.run_dir, {"id": study.id, "study": study.model_dump(mode="json")}
    if study.data.name != "digits":
        # No part of the study, but whoever reads the run later may want to look at images.
        content["folder"] = study.data.folder
    first = run_dir / "environment.json"
    if first.is_file():
        _note_changes(run_dir, read_content(first), environment)
    for log in dict.fromkeys(log for published in study.published for log in published.logs):
        store.keep_published(log)
    if not first.is_file():
        write_record(first, environment)
    # The title of a study and the radii that it reports may change within its identity.
    (run_dir / "study.toml").write_text(source)
    write_record(run_dir / STUDY_FILE, content)


def _check_owner(run_dir: StorePath, study: StudyConfig) -> None:
    """Raise StoreError where a run directory belongs to another study, or has results and no longer says of which."""
    try:
        known = read_content(run_dir / STUDY_FILE)
    except DamagedError:
        _check_remains(run_dir, study)
        return
    if known.get("id") != study.id:
        identity = study.identity
        before = {name: value for name, value in known.get("study", {}).items() if name in identity}
        raise StoreError(
            f"run directory {run_dir} belongs to study {known.get('id')}, not to {study.id} "
            f"({_first_difference(before, identity)}); choose another with --run-dir"
        )


def _has_begun(run_dir: StorePath) -> bool:
    """Whether a study has run in a folder: its study.json is there, damaged or set aside, or there are results."""
    return _has_results(run_dir) or any(_MARK in one.read_bytes() for one in run_dir.glob(f"{STUDY_FILE}*"))


def _has_results(run_dir: StorePath) -> bool:
    return bool((run_dir / "models").folders() or (run_dir / "certificates").glob("part-*.parquet"))


def _check_remains(run_dir: StorePath, study: StudyConfig) -> None:
    """Raise StoreError where there are results, and no study.json, damaged or set aside, with the study's id."""
    if not _has_results(run_dir):
        return
    remains = run_dir.glob(f"{STUDY_FILE}*")
    if run_dir.name != study.id and not any(f'"{study.id}"'.encode() in one.read_bytes() for one in remains):
        lost = remains[0] if remains else run_dir / STUDY_FILE
        raise StoreError(
            f"{lost}: damaged or missing, and nothing else says that the results in {run_dir} are those of {study.id}; "
            f"put a copy of {STUDY_FILE} back, or choose another directory with --run-dir"
        )


def _note_changes(run_dir: StorePath, before: dict[str, str], now: dict[str, str]) -> None:
    """Keep an environment that differs from the first, and warn: numbers of both go into one study."""
    changed = {name: now[name] for name in now if name not in ("started", "cores") and before.get(name) != now[name]}
    if not changed:
        return
    write_record(run_dir / f"environment-{content_id(changed)}.json", now)
    changes = ", ".join(
        f"{name} {before.get(name, 'unknown')} then, {value} now" for name, value in sorted(changed.items())
    )
    _log.warning(
        "warning: %s was begun in another environment (%s); what is finished is kept as it is", run_dir, changes
    )


def _first_difference(before: Any, now: Any, key: str = "") -> str:
    """Return a few words on the first key at which two JSON-like values differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in sorted({*before, *now}):
            if before.get(name) != now.get(name):
                return _first_difference(before.get(name), now.get(name), f"{key}.{name}" if key else name)
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for index, pair in enumerate(zip(before, now, strict=True)):
            if pair[0] != pair[1]:
                return _first_difference(*pair, f"{key}[{index}]")

    def short(value: Any) -> str:
        text = json.dumps(value)
        return text if len(text) <= 40 else f"{text[:37]}..."

    return f"{key}: {short(before)} there, {short(now)} here"
