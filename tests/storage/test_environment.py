"""The environment that is kept with a run."""

import subprocess
from pathlib import Path

import pytest

from rspipe.storage.environment import _commit, environment


def test_the_environment_names_commit_packages_and_machine() -> None:
    content = environment()
    assert content["torch"] != "absent"
    assert all(content[name] for name in ("started", "commit", "python", "ray", "mlflow", "cpu"))
    assert all(isinstance(value, str) for value in content.values())


def test_a_commit_is_that_of_the_image_where_no_repository_holds_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RSPIPE_COMMIT", "abc")
    # As of a virtual environment in a repository, which ignores it.
    installed, own = tmp_path / "environment.py", tmp_path / "own.py"
    installed.touch()
    own.touch()
    for words in (
        ["init"],
        ["add", own.name],
        ["-c", "user.name=a", "-c", "user.email=a", "commit", "-m", "theirs"],
    ):
        subprocess.run(["git", "-C", str(tmp_path), *words], capture_output=True, check=True)
    for file in (installed, Path("/environment.py")):
        assert _commit(file) == "abc"
    assert _commit(own) != "abc"
    monkeypatch.delenv("RSPIPE_COMMIT")
    assert _commit(installed) == "unknown"
