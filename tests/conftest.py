"""Fixtures shared by all tests: one small Ray for the whole session, and the data folder beside the repository."""

import os

# Before anything imports ray or mlflow.
os.environ.update(
    {
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
)
for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "RSPIPE_RUNS"):
    os.environ.pop(name, None)

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

from rspipe.stages.runtime import Cluster, Resources, connect

# No test depends on how fast the machine is, or on chance.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.load_profile("repeatable")

# Files of tests/stages that share a head, an undisturbed run and the pipelines started on them.
WHOLE_STUDIES = (
    "test_full_study.py",
    "test_job.py",
    "test_nodes.py",
    "test_nodes_storage.py",
    "test_safety.py",
    "test_train.py",
)


class StagesTogether(LoadScopeScheduling):
    """Whole studies run in one process and the other stages' tests in one, since they share a Ray; files elsewhere."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        if not file.startswith("tests/stages/"):
            return file
        return "whole studies" if file.endswith(WHOLE_STUDIES) else "stages"


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> StagesTogether:
    """Return how tests are dealt to processes."""
    return StagesTogether(config, log)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A Ray of two CPUs, started once."""
    log = tmp_path_factory.mktemp("ray") / "ray.log"
    with connect(address="local", resources=Resources(cpus=2), log=log) as connected:
        yield connected


@pytest.fixture
def repository() -> Path:
    """Return the root of the repository."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture
def shared_data(repository: Path) -> Path:
    """Return the folder of real images beside the repository; the test is skipped where there is none."""
    folder = repository.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the data folder ../shared/data, which is not here")
    return folder
