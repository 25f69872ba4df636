"""Addresses and amounts that are refused without Ray."""

import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import ray
from ray._private.services import get_node_to_connect_for_driver
from ray._private.utils import check_version_info

from rspipe.errors import ClusterError
from rspipe.execution import connection
from rspipe.execution.connection import connect
from rspipe.execution.resources import Resources
from tests.processes import PATIENCE

STARTS_RAYS = """
import os, sys
from pathlib import Path
from rspipe.errors import ClusterError
from rspipe.execution.connection import connect
from rspipe.execution.resources import Resources
before = dict(os.environ)
for word in sys.argv[2:]:
    variable, _, value = word.partition("=")
    # Without a token Ray asks for no home.
    os.environ.update(before | {"RAY_AUTH_MODE": "token" if variable == "HOME" else "disabled", variable: value})
    try:
        with connect(address="local", resources=Resources(), log=Path(sys.argv[1])):
            pass
    except ClusterError as error:
        print(error)
"""


@pytest.mark.parametrize(
    ("amounts", "message"),
    [
        ({"wait_minutes": -1.0}, r"--resources\.wait-minutes = -1 must be at least 0"),
        ({"cpus_per_worker": -1.0}, r"--resources\.cpus-per-worker = -1 must be at least 0"),
        ({"gpus_per_worker": -0.5}, r"--resources\.gpus-per-worker = -0\.5 must be at least 0"),
        ({"gpus_per_worker": 2.0}, r"--resources\.gpus-per-worker = 2, but a worker .* --resources\.workers-per-model"),
        ({"gpus_per_worker": float("nan")}, r"--resources\.gpus-per-worker = nan must be at least 0"),
        ({"workers": 0}, r"--resources\.workers = 0 must be at least 1"),
        ({"cpus": 0}, r"--resources\.cpus = 0 must be at least 1"),
        ({"cpus_per_worker": 0.0}, "are both 0; raise one"),
    ],
)
def test_amounts_that_mean_nothing_are_refused(amounts: dict[str, float], message: str, tmp_path: Path) -> None:
    with (
        pytest.raises(ClusterError, match=message),
        connect(address="127.0.0.1:9", resources=Resources(**amounts), log=tmp_path / "ray.log"),  # type: ignore[arg-type]
    ):
        pass


@pytest.mark.parametrize("address", ["ray://127.0.0.1:10001", "http://127.0.0.1:8265"])
def test_the_address_of_a_client_or_a_dashboard_is_refused(address: str, tmp_path: Path) -> None:
    with (
        pytest.raises(ClusterError, match=r"is that of a client or a dashboard; give the head's own"),
        connect(address=address, resources=Resources(), log=tmp_path / "ray.log"),
    ):
        pass


def test_a_ray_that_cannot_be_started_is_refused_with_the_remedy_for_its_cause(tmp_path: Path) -> None:
    (file := tmp_path / "file").touch()
    remedies = {
        f"RAY_TMPDIR={tmp_path}/{'long' * 30}": "AF_UNIX path length .* let RAY_TMPDIR name a folder with a short path",
        f"RAY_TMPDIR={file}": "Not a directory.* let RAY_TMPDIR name a folder that can be written",
        f"HOME={file}": "Not a directory.* let HOME name a folder that can be written",
    }
    # A process of its own: another test may have started a Ray in this one, and a process has one Ray at most.
    words = [sys.executable, "-c", STARTS_RAYS, str(tmp_path / "ray.log"), *remedies]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    ended = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE)
    for refusal, remedy in zip_longest(ended.stdout.splitlines(), remedies.values(), fillvalue=ended.stderr):
        assert re.fullmatch(f"cannot start a Ray on this machine: .*{remedy}.*", refusal)


@pytest.mark.parametrize(
    ("refusal", "told"),
    [
        (
            lambda: check_version_info({"ray_version": ray.__version__, "python_version": "3.9.1"}, "here"),
            rf"Python: 3\.9\.1 .*{platform.python_version()}.*; install the same versions on both",
        ),
        (
            lambda: get_node_to_connect_for_driver(MagicMock(), timeout_seconds=0),
            "this machine is no node of the Ray cluster at 10.0.0.1:6379; `ray start --address=10",
        ),
    ],
)
def test_why_a_head_cannot_be_joined_is_told_whole(
    refusal: Callable[[], None], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "head_address", lambda given: given)
    monkeypatch.setattr(ray, "init", lambda **_: refusal())
    with (
        pytest.raises(ClusterError, match=told),
        connect(address="10.0.0.1:6379", resources=Resources(), log=tmp_path / "ray.log"),
    ):
        pass


def test_an_address_where_nothing_listens_is_refused_at_once(tmp_path: Path) -> None:
    began = time.monotonic()
    with (
        pytest.raises(ClusterError, match=r"no Ray head answers at 127\.0\.0\.1:9 .*`ray start --head`"),
        connect(address="127.0.0.1:9", resources=Resources(), log=tmp_path / "ray.log"),
    ):
        pass
    # Ray itself would try for minutes.
    assert time.monotonic() - began < 30
