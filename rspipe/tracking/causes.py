"""Why MLflow cannot be written, by kind, and what its user can do about it."""

import re
from urllib.parse import urlsplit

from rspipe.errors import one_line
from rspipe.tracking.client import named_uri, without_secrets

# The first that fits. Texts of MLflow 3, of SQLAlchemy, of requests and of servers.
_REMEDIES = (
    (
        "maintenance mode|MLFLOW_ALLOW_FILE_STORE",
        "let MLFLOW_TRACKING_URI name a database, as in sqlite:////PATH/mlflow.db",
    ),
    ("out-of-date database schema", "copy it and run `mlflow db upgrade {uri}`, or use the newer MLflow that made it"),
    ("Invalid Host header", "start its server with `--allowed-hosts {netloc}`"),
    ("ProxyError|Unable to connect to proxy|Tunnel connection failed", "set NO_PROXY={host} if no proxy leads there"),
    (
        r"error code 401|UNAUTHENTICATED",
        "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
    ),
    (
        "error code 403|PERMISSION_DENIED",
        "it lets you in but not write: ask its owner, or set MLFLOW_EXPERIMENT_NAME",
    ),
    (
        "error code 404|not in a valid JSON|unsupported URI",
        "no MLflow answers under this address: correct MLFLOW_TRACKING_URI",
    ),
    (r"error code 5\d\d|too many \d+ error responses|INTERNAL_ERROR", "its server fails: see that server's log"),
    (
        "deleted state|must be in the 'active' state|Current state is deleted",
        "`mlflow experiments restore` brings a deleted experiment back, or set MLFLOW_EXPERIMENT_NAME to another",
    ),
    ("No such experiment|No Experiment with id", "correct MLFLOW_EXPERIMENT_ID, or set MLFLOW_EXPERIMENT_NAME"),
    ("timed out|Timeout", "its server takes connections and does not answer: see there"),
    (
        "Connection refused|Failed to establish|NameResolution|Max retries exceeded|Connection aborted",
        "start its server, or correct MLFLOW_TRACKING_URI",
    ),
    ("not a database|malformed", "it is damaged: move it away, and a new one is made"),
    ("disk is full|No space left", "free space there"),
    ("locked", "another process holds it: end that"),
    ("unable to open|readonly|[Rr]ead-only|Permission denied", "let MLFLOW_TRACKING_URI name one that can be written"),
)

_LONGEST = 240
"""Of a reason: behind the remedy, since MLflow prints whole answers of servers."""


def cause(error: Exception, uri: str) -> tuple[str, bool]:
    """Return the remedy and the reason of what MLflow refused, and whether that remedy is known."""
    whole = without_secrets(one_line(error), uri)
    # What requests and SQLAlchemy wrap around it.
    reason = re.sub(r"^.*\(Caused by (.*?)\)$|( \[SQL:.*\])? \(Background on this error.*$", r"\1", whole)
    said = reason if len(reason) <= _LONGEST else f"{reason[: _LONGEST - 3]}..."
    for pattern, remedy in _REMEDIES:
        if re.search(pattern, whole):
            parts = urlsplit(uri)
            return f"{remedy.format(uri=named_uri(uri), host=parts.hostname, netloc=parts.netloc)} ({said})", True
    return said, False


def hangs(error: Exception) -> bool:
    """Return whether a server was waited for in vain: it would be again."""
    return "timed out" in str(error)
