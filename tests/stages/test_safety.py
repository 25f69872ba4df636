"""Limits of what a study file, a run directory, the network and a log can do."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rspipe.errors import StoreError, StudyError
from rspipe.execution.resources import Cluster
from rspipe.stages.report import finished_ensembles, read_results
from rspipe.storage.environment import environment
from rspipe.storage.files import read_content, write_record
from rspipe.storage.store import Store
from rspipe.study.loading import load_study
from rspipe.tracking.client import server_address, ui_command, without_secrets
from tests.processes import SECRETS, TINY, descendants
from tests.stages.test_full_study import Copied, one_line

SCRIPTS = ("full_study.py", "tune.py", "train.py", "weigh.py", "certify.py")
PLACES = ("architecture", "models.1.architecture", "search.0.architecture")


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """A module `nets_of_a_stranger`; returns whether it has run."""
    ran = tmp_path / "ran"
    touch = f"from pathlib import Path\nPath({str(ran)!r}).touch()\n"
    source = f"{touch}from rspipe.networks.small_images import digits_cnn as build\n"
    (tmp_path / "nets_of_a_stranger.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "nets_of_a_stranger", raising=False)
    return ran.exists


@pytest.mark.parametrize("place", PLACES)
def test_a_study_file_that_names_code_is_refused_before_it_runs(place: str, code: Callable[[], bool]) -> None:
    with pytest.raises(StudyError, match=r"code of module 'nets_of_a_stranger'; pass --allow-code if you trust"):
        load_study(TINY, overrides=[f"{place}='nets_of_a_stranger:build'"])
    assert not code()


@pytest.mark.parametrize("place", PLACES)
def test_a_study_file_may_name_code_where_its_user_says_so(place: str, code: Callable[[], bool]) -> None:
    study = load_study(TINY, overrides=[f"{place}='nets_of_a_stranger:build'"], allow_code=True)
    assert "nets_of_a_stranger:build" in {group.architecture for group in study.groups}
    assert code()


def words_with_code(run_dir: Path) -> list[str]:
    """Return the command line of a study whose architecture is somebody's own code."""
    own = "architecture='nets_of_a_stranger:build'"
    return ["--study", str(TINY), "--run-dir", str(run_dir), "--set", own]


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_pipeline_refuses_code_with_one_line(
    script: str, code: Callable[[], bool], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = words_with_code(tmp_path / "run")
    line = one_line(script, words, capsys)
    assert "--allow-code" in line
    assert not code()
    assert not (tmp_path / "run").exists()


def test_a_pipeline_takes_code_with_allow_code(
    code: Callable[[], bool], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*words_with_code(tmp_path / "run"), "--set", "certify.images=1000", "--allow-code"]
    # It gets as far as the images, of which there are fewer.
    assert "lower the number" in one_line("train.py", words, capsys)
    assert code()


def test_code_in_the_records_of_a_strangers_run_directory_is_refused(copied: Copied, code: Callable[[], bool]) -> None:
    run_dir, study = copied(), load_study(TINY)
    path = Store(run_dir).model_dir(study.model_specs[0].id) / "model.json"
    record = read_content(path)
    record["spec"]["architecture"] = "nets_of_a_stranger:build"
    write_record(path, record)
    for read in (read_results, finished_ensembles):
        with pytest.raises(
            StoreError, match=r"model\.json: damaged or missing .it is of another spec than its name says"
        ):
            read(Store(run_dir), study)
    assert not code()


def _listening() -> dict[str, list[str]]:
    """Return the local addresses of all TCP sockets that listen, by inode, in the kernel's hexadecimal."""
    places: dict[str, list[str]] = {}
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text(encoding="ascii").splitlines()[1:]:
            words = line.split()
            if words[3] == "0A":
                places.setdefault(words[9], []).append(words[1].partition(":")[0])
    return places


def _sockets(pid: int) -> set[str]:
    places = set()
    for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
        try:
            target = str(descriptor.readlink())
        except OSError:
            continue
        if target.startswith("socket:["):
            places.add(target[8:-1])
    return places


def test_a_ray_of_our_own_listens_at_loopback_alone_and_has_no_dashboard(cluster: Cluster) -> None:
    # 127.0.0.1, by itself and mapped into IPv6, and ::1, as words of four bytes in the machine's order.
    loopback = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    listening, commands = _listening(), dict(descendants(os.getpid()))
    # Heads that other tests started as clusters, which have to be reached.
    for head in [pid for pid, command in commands.items() if " start --head" in command]:
        for pid in [head, *dict(descendants(head))]:
            commands.pop(pid, None)
    of_ray = [inode for pid in (os.getpid(), *commands) for inode in _sockets(pid) if inode in listening]
    assert any("gcs_server" in command for command in commands.values())
    assert len(of_ray) >= 5, "the server, the raylet and its agents"
    assert {address for inode in of_ray for address in listening[inode]} <= loopback
    assert cluster.address.startswith("127.0.0.1:")
    servers = ("dashboard/dashboard.py", "autoscaler/_private/monitor.py")
    assert [command for command in commands.values() if any(server in command for server in servers)] == []


def test_the_ui_that_is_suggested_listens_at_loopback_alone(tmp_path: Path) -> None:
    words = ui_command(f"sqlite:///{tmp_path}/mlflow.db").split()
    assert words[:2] == ["mlflow", "ui"]
    assert "--host" not in words
    program = str(Path(sys.executable).with_name("mlflow"))
    told = subprocess.run([program, "ui", "--help"], capture_output=True, text=True, check=True).stdout
    (host,) = re.findall(r"--host HOST .*?\(default: ([\d.]+)\)", told, re.DOTALL)
    assert host == "127.0.0.1"


SECRET = "hunter2-in-plain-sight"


def test_the_record_of_the_environment_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_TOKEN", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{SECRET}@127.0.0.1:9")
    assert SECRET not in json.dumps(environment())


def test_passwords_of_mlflow_are_left_out_of_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"http://me:{SECRET}%21@tracking:5000"
    assert server_address(uri) == "http://me:***@tracking:5000"
    assert without_secrets(f"401 for {uri} with {SECRET}!", uri) == "401 for http://me:***@tracking:5000 with ***"
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "abc-token")
    assert without_secrets("Bearer abc-token", "sqlite:///x") == "Bearer ***"
    assert without_secrets("nothing to hide", "http://tracking:5000") == "nothing to hide"


def test_no_secret_is_left_in_a_run_directory_in_mlflow_or_in_a_log(reference: tuple[Path, str]) -> None:
    run_dir, output = reference
    files = [path for path in run_dir.parent.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    # The last two are Ray's own, where Tune's copies of the environment would be.
    assert {"mlflow.db", "environment.json", "ray.log", "weights.pt", "gcs_server.out", "raylet.out"} <= names
    for secret in SECRETS.values():
        assert secret not in output
        assert [path for path in files if secret.encode() in path.read_bytes()] == []
