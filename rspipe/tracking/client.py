"""MLflow's client: where it keeps runs, how it is reached, and how it is kept quiet."""

import logging
import os
import shlex
from typing import Any
from urllib.parse import unquote, urlsplit

from rspipe.storage.paths import StorePath

_log = logging.getLogger(__name__)

_ENVIRONMENT = {
    # A server that is not there should cost seconds.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # One bar, and two lines with a server, per run would flood the terminal.
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}

_SECRETS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


def tracking_uri(run_dir: StorePath) -> str:
    """Return where MLflow keeps runs: MLFLOW_TRACKING_URI, or mlflow.db beside the run directory's local part."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{run_dir.local_part.parent / 'mlflow.db'}"


def without_secrets(text: str, uri: str) -> str:
    """Return a text without the password of an address, or one that MLflow finds in the environment."""
    password = urlsplit(uri).password or ""
    secrets = [password, unquote(password), *(os.environ.get(name, "") for name in _SECRETS)]
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    return text


def ui_command(uri: str) -> str:
    """Return the command to type, or the address to open, to see the runs; a password is left out."""
    uri = without_secrets(uri, uri)
    return uri if uri.startswith("http") else f"mlflow ui --backend-store-uri {shlex.quote(uri)}"


def connect_mlflow(uri: str) -> Any:
    """Return MLflow's client, imported here and made quiet: seconds, not minutes, for a server that is not there."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Migrations of a new database are logged at length.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    # It logs each request that it tries again; the Tracker warns once of the outcome.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=uri)


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
