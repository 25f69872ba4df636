"""MLflow's client: where it keeps runs, how it is reached, and how it is kept quiet."""

import fcntl
import logging
import os
import shlex
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from rspipe.storage.paths import StorePath

_log = logging.getLogger(__name__)

_ENVIRONMENT = {
    # A server that is not there, or that hangs, should cost seconds.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # One bar, and two lines with a server, per run would flood the terminal.
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}

_SECRETS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


def tracking_uri(run_dir: StorePath) -> str:
    """Return where MLflow keeps runs: MLFLOW_TRACKING_URI, or mlflow.db beside the run directory's local part."""
    # Both mean something in an address: the database lies above a folder with one in its name.
    folder = next(folder for folder in run_dir.local_part.parents if not {"?", "%"} & {*str(folder)})
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / 'mlflow.db'}"


def without_secrets(text: str, uri: str) -> str:
    """Return a text without the password of an address, or one that MLflow finds in the environment."""
    password = urlsplit(uri).password or ""
    secrets = [password, unquote(password), *(os.environ.get(name, "") for name in _SECRETS)]
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    return text


def named_uri(uri: str) -> str:
    """Return an address as a shell takes it, without a password: one that has any is that of the environment."""
    return shlex.quote(uri) if without_secrets(uri, uri) == uri else '"$MLFLOW_TRACKING_URI"'


def server_address(uri: str) -> str:
    """Return where a browser sees the runs: at their server, or at that of `ui_command`; a password is left out."""
    return without_secrets(uri, uri).rstrip("/") if uri.startswith("http") else "http://127.0.0.1:5000"


def ui_command(uri: str) -> str:
    """Return the command that shows the runs, without a password; nothing where a server does."""
    return "" if uri.startswith("http") else f"mlflow ui --backend-store-uri {named_uri(uri)}"


@contextmanager
def alone(uri: str) -> Iterator[None]:
    """Keep other studies on this machine from making a new database at the same moment: MLflow would fail."""
    if (path := _local_database(uri)) is None:
        yield
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        # Not on every file system; then it is as without.
        with suppress(OSError):
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def connect_mlflow(uri: str) -> Any:
    """Return MLflow's client, imported here and made quiet: seconds, not minutes, for a server that is not there."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Migrations of a new database are logged at length.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    _check_opens(uri)
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    # It logs each request that it tries again; the Tracker warns once of the outcome.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    _make_database(uri)
    return MlflowClient(tracking_uri=uri)


def database_path(uri: str) -> Path | None:
    """Return the file of an SQLite database as MLflow reads it, "#" and "%" in names; None of any other store."""
    path = uri.removeprefix("sqlite:///").partition("?")[0]
    return Path(path) if path and uri.startswith("sqlite:///") else None


def _local_database(uri: str) -> Path | None:
    """Return the file of an SQLite database in a folder that exists; None of any other store."""
    path = database_path(uri)
    return path if path is not None and path.parent.is_dir() else None


def _make_database(uri: str) -> None:
    """Make a new SQLite database whole: MLflow takes seconds for it, and cannot go on with what a kill has left."""
    from mlflow import MlflowClient

    path = _local_database(uri)
    if path is not None and not (path.is_file() and path.stat().st_size):
        for begun in path.parent.glob(f".{path.name}.*"):
            begun.unlink()
        # MLflow keeps what it has opened by its name.
        new = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        MlflowClient(tracking_uri=f"sqlite:///{new}")
        new.replace(path)


def _check_opens(uri: str) -> None:
    """Raise sqlite3.Error for a file that is no database or cannot be opened: MLflow would try for two minutes."""
    if (path := _local_database(uri)) is not None:
        with closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA schema_version")


def monitor_load(run: str, uri: str) -> Any | None:
    """Log the load of this machine to a run every ten seconds; return the thread's handle, None where it cannot be."""
    from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING as ENABLED

    if ENABLED.is_set() and not ENABLED.get():
        return None
    try:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor = SystemMetricsMonitor(run, resume_logging=True, tracking_uri=uri)
    except ImportError as error:
        _log.info("the load of this machine is not logged: %s", error)
        return None
    monitor.start()
    return monitor
