"""What is damaged in a run directory is set aside before a study goes on, so that it is done again."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from rspipe.errors import DamagedError, StoreError
from rspipe.search.spec import SearchSpec
from rspipe.storage.files import damage, if_there, read_content
from rspipe.storage.paths import StorePath
from rspipe.storage.store import STUDY_FILE, Store

_log = logging.getLogger(__name__)

# Parameters of large networks are held in memory while they are checked.
_READ_AT_ONCE = 4

_AGAIN = "done again"

_REPORT = ("report.html", "summary.tsv", "summary.md")


@dataclass(frozen=True)
class _Check:
    """A check of files."""

    run: Callable[[], object]
    """Raises DamagedError where they are not what was written."""
    files: tuple[StorePath, ...]
    """Some may be missing."""
    then: str = _AGAIN
    """What comes of it when they are gone."""


def set_damaged_aside(store: Store, searches: Sequence[SearchSpec] = ()) -> None:
    """Rename every file that is not what was written, and warn of each in a line.

    Nothing else may write in the directory.

    Args:
        store: The run directory.
        searches: Of its study: what they have finished is not done again, though trials of it are lost.

    Raises:
        StoreError: A file cannot be reached, or is of another version of rspipe.
    """
    for check, error in _damaged(store, {one.id: one.trials for one in searches}):
        moved = [path.set_aside().name for path in check.files if path.is_file()]
        _log.warning("warning: %s; set aside as %s, and %s", damage(error), ", ".join(moved), check.then)


def check_nothing_in_the_way(run_dir: StorePath, source: str) -> None:
    """Raise StoreError where a folder that no study has run in has files that a run directory would take for its own.

    Args:
        run_dir: The folder.
        source: Text of the study file, which is kept there.
    """
    kept, name = run_dir / "study.toml", ""
    if kept.is_file() and kept.read_bytes().decode(errors="replace").splitlines() != source.splitlines():
        name = kept.name
    name = name or next((one for one in _REPORT if (run_dir / one).is_file()), "")
    for check, _ in _damaged(Store(run_dir), {}):
        name = name or next(str(path).removeprefix(f"{run_dir}/") for path in check.files if path.is_file())
    if name:
        raise StoreError(
            f"{run_dir} is no run directory, and has a {name} that one would write over; choose another with --run-dir"
        )


def _damaged(store: Store, trials: Mapping[str, int]) -> Iterator[tuple[_Check, DamagedError]]:
    with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
        checks = [*_checks(store, trials)]
        for error, check in zip(pool.map(_damage, checks), checks, strict=True):
            if error is not None:
                yield check, error


def _damage(check: _Check) -> DamagedError | None:
    try:
        check.run()
    except DamagedError as error:
        return error
    return None


def _checks(store: Store, trials: Mapping[str, int]) -> Iterator[_Check]:
    """Yield the checks of all files of a run directory that numbers or decisions follow from.

    Args:
        store: The run directory.
        trials: That are asked for, by search.
    """
    root = store.run_dir
    contents = [root / STUDY_FILE, root / "images.json", *root.glob("environment*.json")]
    for path in (*contents, *(root / "cascades").glob("*.json")):
        yield _Check(partial(if_there, partial(read_content, path)), (path,))
    for folder in (root / "models").folders():
        yield _Check(partial(_check_model, store, folder.name), (folder / "model.json", folder / "weights.pt"))
        yield _Check(partial(store.check_seal, folder / "checkpoint.pt"), (folder / "checkpoint.pt",))
    for folder in (root / "search").folders():
        result = _Check(partial(store.search_result, folder.name, trials=0), (folder / "result.json",))
        yield result
        # Other trials may have been proposed or stopped for what it found.
        asked = trials.get(folder.name, 0)
        ended = _damage(result) is None and store.search_result(folder.name, trials=asked) is not None
        for path in folder.glob("trial-*.json"):
            then = "not done again, since its search has ended" if ended else _AGAIN
            yield _Check(partial(store.trial_of, path), (path,), then)
        for path in folder.glob("checkpoint-*.pt"):
            yield _Check(partial(store.check_seal, path), (path,))
    for path in (*(root / "moments").glob("*.npz"), *(root / "published").glob("*.tsv")):
        yield _Check(partial(store.check_seal, path), (path,))
    for path in (root / "weights").glob("*.json"):
        yield _Check(partial(store.ensemble_record, path.name.removesuffix(".json")), (path,))
    for path in (root / "choices").glob("*.json"):
        yield _Check(partial(store.choice_of, path), (path,))
    for path in (root / "boundary").glob("*.json"):
        check = partial(store.boundary_check, path.name.removesuffix(".json"))
        yield _Check(check, (path,), "made again by check-boundary alone")
    for path in (root / "certificates").glob("part-*.parquet"):
        yield _Check(partial(store.counts_of, path, ["rule"]), (path,))


def _check_model(store: Store, model: str) -> None:
    if store.trained_model(model) is not None:
        store.parameters(model)
