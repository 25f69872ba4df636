"""Run directories of both kinds."""

from pathlib import Path

import pytest

from rspipe.storage.paths import StorePath


@pytest.fixture(params=["folder", "bucket"])
def run_dir(request: pytest.FixtureRequest, tmp_path: Path) -> StorePath:
    """Return a run directory that is not there yet, of either kind."""
    return (
        StorePath.of(tmp_path) / "run" if request.param == "folder" else request.getfixturevalue("bucket") / "some/run"
    )
