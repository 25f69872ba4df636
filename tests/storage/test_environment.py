"""The environment that is kept with a run."""

from pathlib import Path

import pytest

from rspipe.storage.environment import _commit, environment


def test_the_environment_names_commit_packages_and_machine() -> None:
    content = environment()
    assert content["torch"] != "absent"
    assert all(content[name] for name in ("started", "commit", "python", "ray", "mlflow", "cpu"))
    assert all(isinstance(value, str) for value in content.values())


def test_a_commit_is_that_of_the_image_where_there_is_no_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RSPIPE_COMMIT", "abc")
    assert _commit(Path(__file__).parent) != "abc"
    assert _commit(Path("/")) == "abc"
    monkeypatch.delenv("RSPIPE_COMMIT")
    assert _commit(Path("/")) == "unknown"
