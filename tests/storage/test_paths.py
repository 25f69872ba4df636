"""Paths: addresses, files of both kinds, refusals of object stores, and one process at a time in them."""

import io
import logging
import os
import pickle
import re
import signal
import subprocess
import threading
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from rspipe.errors import StoreError
from rspipe.storage import locks
from rspipe.storage.files import write_record
from rspipe.storage.locks import exclusive
from rspipe.storage.paths import StorePath
from rspipe.storage.store import Store


def test_an_address_is_read_and_a_path_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert str(StorePath.of("runs/mine")) == str(tmp_path / "runs" / "mine")
    assert StorePath.of("runs/mine") == StorePath.of(Path("runs/mine")) == StorePath.of(tmp_path) / "runs/mine"
    assert StorePath.of("~/a").local_part == Path.home() / "a"
    with pytest.raises(StoreError, match="~nobody-of-this-name/a: nobody of this name has a home here"):
        StorePath.of("~nobody-of-this-name/a")
    assert str(StorePath.of("/") / "a") == "/a"
    assert str(StorePath.of("file:///a%20b/c/")) == "/a b/c"
    assert StorePath.of("s3://bucket//runs/mine/") == StorePath("s3", "bucket/runs/mine")
    assert str(StorePath.of("gs://bucket/mine") / "figures/a.svg") == "gs://bucket/mine/figures/a.svg"
    there = StorePath.of("s3://bucket/mine?endpoint_override=10.0.0.1:9000&scheme=http")
    assert str(there / "a") == "s3://bucket/mine/a?endpoint_override=10.0.0.1:9000&scheme=http"
    assert StorePath.of(str(there)) == StorePath.of(there) == there
    assert there.name == "mine"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("s3://AKIA:wJalr@bucket/mine", "credentials belong in the environment"),
        ("s3://bucket/mine?access_key=AKIA&secret_key=wJalr", "credentials belong in the environment"),
        ("gs://wJalr@bucket/mine", "credentials belong in the environment"),
        ("s3://AKIA%3AwJalr%40bucket/mine", "credentials belong in the environment"),
        ("s3://bucket/mine?endpoint_override=AKIA:wJalr@host:9000", "credentials belong in the environment"),
        ("s3://bucket/mine?endpoint_override=AKIA%3AwJalr%2540host", "credentials belong in the environment"),
        ("s3:/bucket/mine", "s3:/ is no folder; an address begins with s3://"),
        ("ftp://me:wJalr@host/mine", "ftp:// is no storage that rspipe knows"),
        ("s3://", "give a bucket"),
        ("s3://bucket/../other", "give a bucket"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_and_credentials_are_not_repeated(text: str, message: str) -> None:
    with pytest.raises(StoreError, match=message) as refused:
        StorePath.of(text)
    assert "wJalr" not in str(refused.value)


def test_what_an_object_store_cannot_hold_lies_in_the_home_directory(bucket: StorePath, tmp_path: Path) -> None:
    assert StorePath.of(tmp_path).local_part == tmp_path
    assert (bucket / "runs/mine").local_part == tmp_path / "home" / "rspipe-runs" / bucket.path / "runs" / "mine"


def test_a_file_of_this_machine_has_name_and_content(run_dir: StorePath) -> None:
    path = run_dir / "a/weights.pt"
    path.write_bytes(b"content")
    with path.as_local_file() as file:
        assert (file.name, file.read_bytes()) == ("weights.pt", b"content")
    assert file.exists() == path.is_local


def test_files_are_listed_set_aside_and_deleted(run_dir: StorePath) -> None:
    folder = run_dir / "some"
    assert folder.glob("*") == []
    for name in ("b.json", "a.b.json", "a.txt", "deeper/c.json"):
        (folder / name).write_bytes(b"")
    assert [path.name for path in folder.glob("*.json")] == ["a.b.json", "b.json"]
    assert (folder / "a.b.json").set_aside().name == "a.b.json.damaged"
    (folder / "a.b.json").write_bytes(b"again")
    assert (folder / "a.b.json").set_aside().name == "a.b.json.damaged-2"
    (folder / "b.json").unlink()
    (folder / "b.json").unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        (folder / "b.json").unlink()
    with pytest.raises(FileNotFoundError):
        (folder / "b.json").read_bytes()
    assert [path.name for path in folder.glob("*")] == ["a.b.json.damaged", "a.b.json.damaged-2", "a.txt"]
    assert not (folder / "deeper").is_file()


def test_what_killed_processes_had_begun_to_write_is_deleted_and_nothing_else(run_dir: StorePath) -> None:
    left = [run_dir / "a/b/weights.pt", run_dir / ".hidden", run_dir / f".{'0' * 31}"]
    begun = [run_dir / f"a/b/.{uuid.uuid4().hex}", run_dir / f".{uuid.uuid4().hex}"]
    for path in (*left, *begun):
        path.write_bytes(b"")
    run_dir.forget_half_written()
    assert [path.is_file() for path in left] == [True] * 3
    assert [path.is_file() for path in begun] == [not run_dir.is_local] * 2


@pytest.mark.parametrize("name", ["..", "../b", "a/../../b", "/etc/passwd", "", "a//b", ".", "a\x1b[31m", "a\0b"])
def test_a_name_does_not_leave_the_directory(run_dir: StorePath, name: str) -> None:
    with pytest.raises(StoreError, match="is no name of a file in it") as refused:
        run_dir / name
    assert str(refused.value).isprintable()


def test_what_is_written_over_is_seen_at_once_and_large_content_comes_back(run_dir: StorePath) -> None:
    path, content = run_dir / "large", bytes(range(256)) * 100_000
    path.write_bytes(b"small")
    path.write_bytes(content)
    assert path.read_bytes() == content


def test_credentials_do_not_travel(run_dir: StorePath) -> None:
    (run_dir / "a").write_bytes(b"")
    assert b"secret" not in pickle.dumps(run_dir)
    assert pickle.loads(pickle.dumps(run_dir)) == run_dir  # noqa: S301


def test_a_wrong_bucket_is_one_line(bucket: StorePath) -> None:
    wrong = replace(bucket, path="no-such-bucket/mine")
    with (
        pytest.raises(StoreError, match=r"^s3://no-such-bucket/.*NO_SUCH_BUCKET.*check the bucket.*$"),
        exclusive(wrong),
    ):
        pass


def test_refused_credentials_are_one_line_and_nothing_counts_as_damaged(bucket: StorePath, object_store: str) -> None:
    def let_in(requests: bytes) -> None:
        """Tell moto after how many requests it looks at credentials."""
        plain = {"Content-Type": "text/plain"}
        request = urllib.request.Request(f"{object_store}/moto-api/reset-auth", data=requests, headers=plain)
        urllib.request.urlopen(request, timeout=30).close()

    store, state = Store(bucket), {"epoch": 3}
    store.save_checkpoint("m", state)
    let_in(b"0")
    try:
        with pytest.raises(
            StoreError, match=r"(?s)\A[^\n]*ACCESS[^\n]*credentials in the environment[^\n]*\Z"
        ) as refused:
            (bucket / "a").write_bytes(b"")
        with pytest.raises(StoreError, match="ACCESS_DENIED"):
            store.checkpoint("m")
    finally:
        let_in(b"inf")
    assert "a-secret-key" not in str(refused.value)
    assert store.checkpoint("m") == state, "what could not be read was taken for damaged"


def test_a_store_that_does_not_answer_is_one_line(bucket: StorePath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match=r"(?s)\A[^\n]*NETWORK_CONNECTION[^\n]*check[^\n]*\Z"):
        (replace(bucket, path="another") / "a").is_file()


@pytest.fixture
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count in seconds what counts in minutes."""
    monkeypatch.setattr(locks, "RENEWED_SECONDS", 0.2)
    monkeypatch.setattr(locks, "SILENT_SECONDS", 3.0)
    monkeypatch.setattr(locks, "LOOK_SECONDS", 0.2)


def elsewhere(run_dir: StorePath) -> StorePath:
    """Write the lock of a process on another machine."""
    path = run_dir / "lock" / "other"
    write_record(path, {"host": "far", "machine": "another boot", "pid": 7, "started": 1.0})
    return path


@contextmanager
def living(run_dir: StorePath) -> Iterator[None]:
    """Let a process on another machine hold a run directory."""
    ended = threading.Event()

    def live() -> None:
        while not ended.wait(0.2):
            elsewhere(run_dir)

    elsewhere(run_dir)
    thread = threading.Thread(target=live)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.mark.usefixtures("_hurried")
def test_a_process_on_another_machine_that_lives_keeps_the_run_directory(
    bucket: StorePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "SILENT_SECONDS", 60.0)
    with (
        living(bucket),
        pytest.raises(StoreError, match="is in use by process 7 on far; wait for it or end it"),
        exclusive(bucket),
    ):
        pass
    assert [path.name for path in (bucket / "lock").glob("*")] == ["other"]


@pytest.mark.usefixtures("_hurried")
def test_a_process_on_another_machine_that_is_silent_is_waited_for_and_then_gone_without(
    bucket: StorePath, caplog: pytest.LogCaptureFixture
) -> None:
    other = elsewhere(bucket)
    with exclusive(bucket):
        assert not other.is_file()
        assert len((bucket / "lock").glob("*")) == 1
    assert "held by process 7 on far" in caplog.text
    assert not (bucket / "lock").glob("*")


def test_a_lock_that_is_gone_is_one_line(bucket: StorePath) -> None:
    own = bucket / "lock" / "own"
    (bucket / "lock" / "another").write_bytes(b"{}")
    with pytest.raises(StoreError, match="own is gone, or not listed yet; run the same command again"):
        locks._others(bucket, own)


@pytest.mark.usefixtures("_hurried")
def test_a_lock_is_renewed_while_it_is_held(bucket: StorePath) -> None:
    with exclusive(bucket):
        ((_, began),) = (bucket / "lock").modified().items()
        deadline = time.monotonic() + 30
        while [*(bucket / "lock").modified().values()] == [began]:
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.mark.usefixtures("_hurried")
def test_a_process_whose_lock_another_took_ends(bucket: StorePath, caplog: pytest.LogCaptureFixture) -> None:
    class Ended(Exception):  # noqa: N818 a signal, not an error
        pass

    def end(*_: object) -> None:
        raise Ended

    def work() -> None:
        with exclusive(bucket):
            for path in (bucket / "lock").glob("*"):
                path.unlink()
            time.sleep(30)

    before = signal.signal(signal.SIGTERM, end)
    try:
        with caplog.at_level(logging.ERROR), pytest.raises(Ended):
            work()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "another process went on in this run directory" in caplog.text


def test_a_clock_that_is_set_makes_no_living_process_a_dead_one(monkeypatch: pytest.MonkeyPatch) -> None:
    owner, opened = locks._this_process(), psutil._pslinux.open_binary

    def an_hour_later(path: str) -> Any:
        """The kernel says when the machine was started by the clock of now."""
        if path != "/proc/stat":
            return opened(path)
        with opened(path) as file:
            return io.BytesIO(re.sub(rb"(?<=btime )\d+", lambda at: b"%d" % (int(at[0]) + 3600), file.read()))

    before = psutil.boot_time()
    monkeypatch.setattr(psutil._pslinux, "open_binary", an_hour_later)
    assert psutil.boot_time() == before + 3600
    assert locks._is_alive(owner)


def test_a_process_of_this_machine_is_known_by_its_number_and_its_start() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        owner = {**locks._this_process(), "pid": process.pid, "started": locks._started(process.pid)}
        try:
            assert locks._is_alive(owner)
            # Another process got the same number later.
            assert locks._is_alive({**owner, "started": owner["started"] - 60}) is False
            assert locks._is_alive({**owner, "machine": "another boot"}) is None
        finally:
            process.kill()
        # It is a zombie until somebody waits for it.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert locks._is_alive(owner) is False
    assert locks._is_alive(owner) is False
