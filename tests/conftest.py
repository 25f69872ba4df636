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

import pytest
from xdist.scheduler import LoadScopeScheduling

from rspipe.stages.runtime import Cluster, Resources, connect


class OneProcessForStages(LoadScopeScheduling):
    """Tests of the stages run one after another, since they share two CPUs and a cluster; other files beside them."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "stages" if file.startswith("tests/stages/") else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> OneProcessForStages:
    """Return how tests are dealt to processes."""
    return OneProcessForStages(config, log)


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
