"""Output of Ray goes to a log, that of Python to the terminal."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray

from rspipe.execution.ray_internals import messages_to
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
