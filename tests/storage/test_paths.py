"""Object stores: addresses, what they refuse, and one process at a time in them."""

import json
import logging
import pickle
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from rspipe.errors import StoreError
from rspipe.storage import locks
from rspipe.storage.locks import alone
from rspipe.storage.paths import ObjectPath, local_copy, local_part, place
from rspipe.storage.store import Store


def test_an_address_is_read_and_a_path_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert place("runs/mine") == tmp_path / "runs" / "mine"
    assert place("file:///a%20b/c") == Path("/a b/c")
    assert place("s3://bucket//runs/mine/") == ObjectPath("s3", "bucket/runs/mine")
    assert str(place("gs://bucket/mine") / "figures/a.svg") == "gs://bucket/mine/figures/a.svg"
    there = place("s3://bucket/mine?endpoint_override=10.0.0.1:9000&scheme=http")
    assert str(there / "a") == "s3://bucket/mine/a?endpoint_override=10.0.0.1:9000&scheme=http"
    assert place(str(there)) == there
    assert there.name == "mine"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("s3://AKIA:wJalr@bucket/mine", "credentials belong in the environment"),
        ("s3://bucket/mine?access_key=AKIA&secret_key=wJalr", "credentials belong in the environment"),
        ("gs://wJalr@bucket/mine", "credentials belong in the environment"),
        ("ftp://me:wJalr@host/mine", "ftp:// is no storage that rspipe knows"),
        ("s3://", "give a bucket"),
        ("s3://bucket/../other", "give a bucket"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_and_credentials_are_not_repeated(text: str, told: str) -> None:
    with pytest.raises(StoreError, match=told) as refused:
        place(text)
    assert "wJalr" not in str(refused.value)


def test_what_an_object_store_cannot_hold_lies_in_the_home_directory(bucket: ObjectPath, tmp_path: Path) -> None:
    assert local_part(tmp_path) == tmp_path
    assert local_part(bucket / "runs/mine") == tmp_path / "home" / "rspipe-runs" / bucket.path / "runs" / "mine"


def test_a_copy_of_this_machine_has_name_and_content(bucket: ObjectPath) -> None:
    (bucket / "a/weights.pt").write_bytes(b"content")
    with local_copy(bucket / "a/weights.pt") as copy:
        assert (copy.name, copy.read_bytes()) == ("weights.pt", b"content")
    assert not copy.exists()


def test_objects_are_listed_moved_and_deleted(bucket: ObjectPath) -> None:
    folder = bucket / "some"
    assert list(folder.glob("*")) == []
    for name in ("b.json", "a.json", "a.txt", "deeper/c.json"):
        (folder / name).write_bytes(b"")
    assert [path.name for path in folder.glob("*.json")] == ["a.json", "b.json"]
    (folder / "a.json").rename(folder / "z.json")
    (folder / "b.json").unlink()
    (folder / "b.json").unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        (folder / "b.json").unlink()
    with pytest.raises(FileNotFoundError):
        (folder / "b.json").read_bytes()
    assert [path.name for path in folder.glob("*")] == ["a.txt", "z.json"]
    assert not (folder / "deeper").is_file()


def test_what_is_written_over_is_seen_at_once_and_large_content_comes_back(bucket: ObjectPath) -> None:
    path, content = bucket / "large", bytes(range(256)) * 100_000
    path.write_bytes(b"small")
    path.write_bytes(content)
    assert path.read_bytes() == content


def test_credentials_do_not_travel(bucket: ObjectPath) -> None:
    (bucket / "a").write_bytes(b"")
    assert b"secret" not in pickle.dumps(bucket)


def test_a_wrong_bucket_is_one_line(bucket: ObjectPath) -> None:
    wrong = replace(bucket, path="no-such-bucket/mine")
    with pytest.raises(StoreError, match=r"^s3://no-such-bucket/.*NO_SUCH_BUCKET.*check the bucket.*$"), alone(wrong):
        pass


def test_refused_credentials_are_one_line_and_nothing_counts_as_damaged(bucket: ObjectPath, object_store: str) -> None:
    def let_in(requests: bytes) -> None:
        """Tell moto after how many requests it looks at credentials."""
        plain = {"Content-Type": "text/plain"}
        asked = urllib.request.Request(f"{object_store}/moto-api/reset-auth", data=requests, headers=plain)
        urllib.request.urlopen(asked, timeout=30).close()

    store, state = Store(bucket), {"epoch": 3}
    store.save_checkpoint("m", state)
    let_in(b"0")
    try:
        with pytest.raises(StoreError, match=r"(?s)\A[^\n]*ACCESS[^\n]*credentials in the environment[^\n]*\Z") as told:
            (bucket / "a").write_bytes(b"")
        with pytest.raises(StoreError, match="ACCESS_DENIED"):
            store.checkpoint("m")
    finally:
        let_in(b"inf")
    assert "a-secret-key" not in str(told.value)
    assert store.checkpoint("m") == state, "what could not be read was taken for damaged"


def test_a_store_that_does_not_answer_is_one_line(bucket: ObjectPath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match=r"(?s)\A[^\n]*NETWORK_CONNECTION[^\n]*check[^\n]*\Z"):
        (replace(bucket, path="another") / "a").is_file()


@pytest.fixture
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count in seconds what counts in minutes."""
    monkeypatch.setattr(locks, "RENEWED_SECONDS", 0.2)
    monkeypatch.setattr(locks, "SILENT_SECONDS", 3.0)
    monkeypatch.setattr(locks, "LOOK_SECONDS", 0.2)


def elsewhere(run_dir: ObjectPath) -> ObjectPath:
    """Write the lock of a process on another machine."""
    path = run_dir / "lock" / "other"
    path.write_bytes(json.dumps({"host": "far", "machine": "another boot", "pid": 7, "began": "1"}).encode())
    return path


@contextmanager
def living(run_dir: ObjectPath) -> Iterator[None]:
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
    bucket: ObjectPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "SILENT_SECONDS", 60.0)
    with (
        living(bucket),
        pytest.raises(StoreError, match="is in use by process 7 on far; wait for it or end it"),
        alone(bucket),
    ):
        pass
    assert [path.name for path in (bucket / "lock").glob("*")] == ["other"]


@pytest.mark.usefixtures("_hurried")
def test_a_process_on_another_machine_that_is_silent_is_waited_for_and_then_gone_without(
    bucket: ObjectPath, caplog: pytest.LogCaptureFixture
) -> None:
    other = elsewhere(bucket)
    with alone(bucket):
        assert not other.is_file()
        assert len(list((bucket / "lock").glob("*"))) == 1
    assert "held by process 7 on far" in caplog.text
    assert not list((bucket / "lock").glob("*"))


@pytest.mark.usefixtures("_hurried")
def test_a_lock_is_renewed_while_it_is_held(bucket: ObjectPath) -> None:
    with alone(bucket):
        ((_, began),) = (bucket / "lock").times().items()
        deadline = time.monotonic() + 30
        while [*(bucket / "lock").times().values()] == [began]:
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.mark.usefixtures("_hurried")
def test_a_process_whose_lock_another_took_ends(bucket: ObjectPath, caplog: pytest.LogCaptureFixture) -> None:
    class Ended(Exception):  # noqa: N818 a signal, not an error
        pass

    def end(*_: object) -> None:
        raise Ended

    def work() -> None:
        with alone(bucket):
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
