"""What is damaged in a run directory is set aside before a study goes on, so that it is done again."""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from rspipe.errors import DamagedError
from rspipe.storage.files import damage, if_there, read_content
from rspipe.storage.paths import StorePath
from rspipe.storage.store import STUDY_FILE, Store

_log = logging.getLogger(__name__)

# Parameters of large networks are held in memory while they are checked.
_READ_AT_ONCE = 4

Check = tuple[Callable[[], object], tuple[StorePath, ...]]
"""What raises DamagedError where files are not what was written, and the files, of which some may be missing."""


def set_damaged_aside(store: Store) -> None:
    """Rename every file that is not what was written, and warn of each in a line.

    Nothing else may write in the directory.

    Raises:
        StoreError: A file cannot be reached, or is of another version of rspipe.
    """
    with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
        checks = [*_checks(store)]
        for error, (_, files) in zip(pool.map(lambda check: _damage(check[0]), checks), checks, strict=True):
            if error is None:
                continue
            moved = [path.set_aside().name for path in files if path.is_file()]
            _log.warning("warning: %s; set aside as %s, and done again", damage(error), ", ".join(moved))


def _damage(check: Callable[[], object]) -> DamagedError | None:
    try:
        check()
    except DamagedError as error:
        return error
    return None


def _checks(store: Store) -> Iterator[Check]:
    """Yield the checks of all files of a run directory that numbers or decisions follow from."""
    root = store.run_dir
    contents = [root / STUDY_FILE, root / "images.json", *root.glob("environment*.json")]
    for path in (*contents, *(root / "cascades").glob("*.json")):
        yield partial(if_there, partial(read_content, path)), (path,)
    for folder in (root / "models").folders():
        yield partial(_check_model, store, folder.name), (folder / "model.json", folder / "weights.pt")
        yield partial(store.check_seal, folder / "checkpoint.pt"), (folder / "checkpoint.pt",)
    for folder in (root / "search").folders():
        for path in folder.glob("trial-*.json"):
            yield partial(store.trial_of, path), (path,)
        yield partial(store.search_result, folder.name, trials=0), (folder / "result.json",)
        for path in folder.glob("checkpoint-*.pt"):
            yield partial(store.check_seal, path), (path,)
    for path in (*(root / "moments").glob("*.npz"), *(root / "published").glob("*.tsv")):
        yield partial(store.check_seal, path), (path,)
    for path in (root / "weights").glob("*.json"):
        yield partial(store.ensemble_record, path.name.removesuffix(".json")), (path,)
    for path in (root / "choices").glob("*.json"):
        yield partial(store.choice_of, path), (path,)
    for path in (root / "boundary").glob("*.json"):
        yield partial(store.boundary_check, path.name.removesuffix(".json")), (path,)
    for path in (root / "certificates").glob("part-*.parquet"):
        yield partial(store.counts_of, path, ["rule"]), (path,)


def _check_model(store: Store, model: str) -> None:
    if store.trained_model(model) is not None:
        store.parameters(model)
