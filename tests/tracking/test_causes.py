"""What MLflow refuses, by real servers, sockets and databases: one line with the remedy in front, and what is saved."""

import http.server
import logging
import shutil
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from rspipe.report.results import Results
from rspipe.storage.store import Store
from rspipe.tracking import client
from rspipe.tracking.client import tracking_uri, ui_command
from tests.tracking.test_publish import child, open_tracker, publish, runs, save, small_results


@pytest.fixture
def content() -> Results:
    few = small_results()
    return replace(few, models=few.models[:1], searches=(), trials=(), ensembles=(), certified=())


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Return the list of what is warned of, by whatever library; all of them reach the terminal."""
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
    told = list[str]()
    handler, root = logging.Handler(logging.WARNING), logging.getLogger()
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    root.addHandler(handler)
    yield told
    root.removeHandler(handler)


@pytest.fixture
def store(tmp_path: Path, content: Results, empty_database: Path) -> Store:
    store = Store(tmp_path / "run")
    save(store, content)
    shutil.copy(empty_database, tmp_path)
    return store


@pytest.fixture
def answering() -> Iterator[Callable[[int, str], str]]:
    """Return a function that starts a web server with one answer to everything; its address."""
    servers = list[http.server.ThreadingHTTPServer]()

    def serve(status: int, body: str) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            do_POST = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.05,), daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "remedy"),
    [
        (401, "You are not authenticated.", "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        (403, "Permission denied", "it lets you in but not write"),
        (
            403,
            "Invalid Host header - possible DNS rebinding attack",
            "start its server with `--allowed-hosts 127.0.0.1:",
        ),
        (404, "<html>", "no MLflow answers under this address"),
        (200, "<html>", "no MLflow answers under this address"),
        (503, "busy", "its server fails: see that server's log"),
    ],
)
def test_what_a_server_refuses_is_one_warning_with_the_remedy_in_front(
    status: int,
    body: str,
    remedy: str,
    answering: Callable[[int, str], str],
    store: Store,
    content: Results,
    warnings: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uri = answering(status, body)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    publish(store, content)
    (warning,) = warnings
    assert warning.startswith(f"warning: MLflow at {uri} cannot be written: {remedy}")
    assert warning.endswith(f"all results are in {store.run_dir}, and pipelines/report.py publishes them then")


def test_a_server_that_hangs_is_asked_once(
    store: Store, content: Results, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", client._ENVIRONMENT["MLFLOW_HTTP_REQUEST_MAX_RETRIES"])
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        publish(store, content)
        # To begin, to publish and to finish: three times otherwise.
        assert time.monotonic() - began < 2.5
    (warning,) = warnings
    assert "cannot be written: its server takes connections and does not answer" in warning


def _old_schema(database: Path) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute("update alembic_version set version_num = '451aebb31d03'")
    connection.close()


def _deleted(database: Path) -> None:
    mlflow = MlflowClient(f"sqlite:///{database}")
    mlflow.delete_experiment(mlflow.create_experiment("rspipe"))


def _folder(database: Path) -> None:
    database.unlink()
    database.mkdir()


@pytest.mark.parametrize(
    ("damage", "remedy"),
    [
        (_old_schema, "copy it and run `mlflow db upgrade sqlite:///{}`, or use the newer MLflow that made it"),
        (_deleted, "`mlflow experiments restore` brings a deleted experiment back, or set MLFLOW_EXPERIMENT_NAME"),
        (lambda path: path.write_text("no database" * 20), "it is damaged: move it away, and a new one is made"),
        # MLflow itself tries for two minutes.
        (_folder, "let MLFLOW_TRACKING_URI name one that can be written"),
    ],
)
def test_what_is_wrong_with_a_database_is_one_warning_with_the_remedy_in_front(
    damage: Callable[[Path], None], remedy: str, store: Store, content: Results, warnings: list[str]
) -> None:
    database = store.run_dir.local_part.parent / "mlflow.db"
    damage(database)
    publish(store, content)
    (warning,) = warnings
    assert f"cannot be written: {remedy.format(database)}" in warning


def test_runs_in_files_are_refused_with_the_remedy(
    store: Store, content: Results, warnings: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/mlruns")
    publish(store, content)
    (warning,) = warnings
    assert "cannot be written: let MLFLOW_TRACKING_URI name a database, as in sqlite:////PATH/mlflow.db" in warning


def test_a_store_of_files_that_fails_costs_files_alone_and_gets_them_later(
    store: Store, content: Results, warnings: list[str]
) -> None:
    artifacts = store.run_dir.local_part.parent / "mlartifacts"
    artifacts.write_text("in the way")
    publish(store, content)
    (warning,) = warnings
    assert "has all numbers but takes no files: " in warning
    assert str(store.run_dir) in warning
    (record,) = content.models
    run = child(runs(store), record)
    assert (run.info.status, run.data.metrics["validation/clean_accuracy"]) == ("FINISHED", record.clean_accuracy)
    assert {one.info.status for one in runs(store)} == {"FINISHED"}
    artifacts.unlink()
    publish(store, content)
    assert len(warnings) == 1
    names = {item.path for item in MlflowClient(tracking_uri(store.run_dir)).list_artifacts(run.info.run_id)}
    assert names == {"model.json", "weights.pt"}


def test_an_upload_that_takes_too_long_costs_files_alone_and_is_not_waited_for_again(
    store: Store, content: Results, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[str]()

    def slow(_: MlflowClient, run_id: str, *__: object) -> None:
        asked.append(run_id)
        raise ConnectionError("Read timed out. (read timeout=10)")

    monkeypatch.setattr(MlflowClient, "log_artifact", slow)
    tracker = open_tracker(store, content.study)
    tracker.publish(replace(content, models=()))
    tracker.publish(content)
    tracker.finish("FINISHED")
    assert len(asked) == 1
    (warning,) = warnings
    assert "has all numbers but takes no files: " in warning
    (record,) = content.models
    assert child(runs(store), record).data.metrics["validation/clean_accuracy"] == record.clean_accuracy
    assert {one.info.status for one in runs(store)} == {"FINISHED"}


def test_an_experiment_is_also_named_by_its_id(
    store: Store, content: Results, monkeypatch: pytest.MonkeyPatch, warnings: list[str]
) -> None:
    mlflow = MlflowClient(tracking_uri(store.run_dir))
    mine = mlflow.create_experiment("mine")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", mine)
    publish(store, content)
    assert len(mlflow.search_runs([mine])) == 2
    assert mlflow.get_experiment_by_name("rspipe") is None
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "77")
    publish(store, content)
    (warning,) = warnings
    assert "cannot be written: correct MLFLOW_EXPERIMENT_ID" in warning


def test_a_folder_whose_name_means_something_in_an_address_has_its_database_above_it(
    content: Results, empty_database: Path, tmp_path: Path, warnings: list[str]
) -> None:
    store = Store(tmp_path / "50% or more?" / "run")
    save(store, content)
    shutil.copy(empty_database, tmp_path)
    publish(store, content)
    assert warnings == []
    assert tracking_uri(store.run_dir) == f"sqlite:///{tmp_path}/mlflow.db"
    assert len(runs(store)) == 2


def test_a_password_is_left_to_the_environment_by_the_command_that_is_printed() -> None:
    assert ui_command("postgresql://me:secret@db/mlflow") == 'mlflow ui --backend-store-uri "$MLFLOW_TRACKING_URI"'
