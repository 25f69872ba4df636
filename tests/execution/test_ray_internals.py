"""Output of Ray goes to a log, that of Python to the terminal."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray

from rspipe.execution.ray_internals import messages_to, patient_start
from rspipe.execution.resources import Cluster


def test_native_output_goes_to_the_log_and_python_errors_to_the_terminal(tmp_path: Path) -> None:
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from rspipe.execution.ray_internals import native_stderr_to\n"
        "with native_stderr_to(Path(sys.argv[1])):\n"
        "    os.write(2, b'native words\\n')\n"
        "    print('python words', file=sys.stderr)\n"
        "os.write(2, b'afterwards\\n')\n"
    )
    log = tmp_path / "ray.log"
    done = subprocess.run(
        [sys.executable, "-c", script, str(log)], capture_output=True, text=True, check=True, env={**os.environ}
    )
    assert log.read_text() == "native words\n"
    assert done.stderr == "python words\nafterwards\n"


def test_what_ray_reports_of_dead_workers_goes_to_the_log_alone(
    cluster: Cluster, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def die() -> None:
        os._exit(1)

    log = tmp_path / "ray.log"
    with messages_to(log):
        with pytest.raises(ray.exceptions.WorkerCrashedError):
            ray.get(ray.remote(max_retries=0)(die).remote())
        deadline = time.monotonic() + 60
        while not log.exists() or "(raylet) A worker died" not in log.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert capfd.readouterr() == ("", "")


def test_a_node_that_takes_longer_than_ray_gives_it_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import services, state

    class Seconds:
        """Of a machine on which a look takes twenty of them."""

        now = 0.0

        @classmethod
        def time(cls) -> float:
            cls.now += 20
            return cls.now

        @staticmethod
        def sleep(_: float) -> None:
            pass

    class Found:
        """That knows of the node after two minutes."""

        def _initialize_global_state(self, _: object) -> None:
            pass

        def node_table(self) -> list[dict[str, str]]:
            return [{"ObjectStoreSocketName": "ours" if Seconds.now > 120 else "another"}]

    monkeypatch.setattr(services, "time", Seconds)
    monkeypatch.setattr(state, "GlobalState", Found)
    with pytest.raises(TimeoutError):
        services.wait_for_node("127.0.0.1:9", "ours")
    Seconds.now = 0.0
    with patient_start():
        services.wait_for_node("127.0.0.1:9", "ours")
    assert 120 < Seconds.now < 300
