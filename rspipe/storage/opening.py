"""Opening a run directory: it belongs to one study and one process at a time."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from rspipe.spec import content_id
from rspipe.storage.files import read_json, write_json, write_text
from rspipe.storage.locks import alone
from rspipe.storage.paths import Place
from rspipe.storage.store import STUDY_FILE, Store
from rspipe.study.config import StudyConfig

_log = logging.getLogger(__name__)


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
    if (run_dir / STUDY_FILE).is_file():
        store.check_owner(study)
        if first.is_file():
            _note_changes(run_dir, read_json(first), environment)
    if not first.is_file():
        write_json(first, environment)
    # What a study is called and which radii it reports may change within its identity.
    write_text(run_dir / "study.toml", source)
    write_json(run_dir / STUDY_FILE, content)


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
