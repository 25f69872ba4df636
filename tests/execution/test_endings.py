"""How a connection ends: in order, or with Ray left behind where it would hang or crash."""

import os
import subprocess
import sys
import threading

import pytest
import ray

from rspipe.errors import ClusterError, DataError
from rspipe.execution import endings
from rspipe.execution.ray_internals import Answer


@pytest.fixture
def shut_down(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list that notes that Ray was shut down; what this process would be told is kept from others."""
    noted = list[str]()
    monkeypatch.setattr(ray, "shutdown", lambda: noted.append("shut down"))
    monkeypatch.setattr(endings, "_interrupt_on_signals", lambda: None)
    monkeypatch.setattr(endings, "head_lost", threading.Event())
    monkeypatch.setattr(endings, "_left_behind", threading.Event())
    return noted


def answers(monkeypatch: pytest.MonkeyPatch, *, alive: bool) -> None:
    monkeypatch.setattr(endings, "ask_head", lambda *_, **__: Answer("alive" if alive else "none"))


def end_with(error: BaseException) -> None:
    with endings.orderly_end("10.0.0.1:6379"):
        raise error


def test_ray_is_shut_down_after_an_error_and_left_behind_after_an_interrupt(
    shut_down: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, alive=True)
    with pytest.raises(RuntimeError, match="of a stage"):
        end_with(RuntimeError("of a stage"))
    assert shut_down == ["shut down"]
    with pytest.raises(KeyboardInterrupt):
        end_with(KeyboardInterrupt())
    assert shut_down == ["shut down"]


def test_whatever_fails_when_the_head_is_gone_is_told_as_that_unless_the_user_can_correct_it(
    shut_down: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, alive=False)
    for error in (RuntimeError("unavailable"), KeyboardInterrupt(), ClusterError("workers were lost")):
        with pytest.raises(ClusterError, match=r"head at 10\.0\.0\.1:6379 is lost; the same command goes on from here"):
            end_with(error)
    with pytest.raises(DataError, match="no such file"):
        end_with(DataError("no such file"))
    assert shut_down == []


def test_a_process_that_hears_nothing_of_its_head_ends_with_one_line_and_status_2() -> None:
    script = (
        "import time\n"
        "from rspipe.execution import endings\n"
        "from rspipe.execution.ray_internals import Answer\n"
        "endings.ask_head = lambda *_, **__: Answer('none')\n"
        "with endings.orderly_end('10.0.0.1:6379'):\n"
        "    while True:\n"
        "        try:\n"
        "            time.sleep(60)\n"
        "        except KeyboardInterrupt:\n"
        "            pass\n"
    )
    # It does not heed the interrupt, like a call of Ray's that does not return.
    own = {"RAY_gcs_rpc_server_reconnect_timeout_s": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **own}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "error: the Ray head at 10.0.0.1:6379 is lost; the same command goes on from here (another head: "
        "`--ray-address`)\n"
    )
