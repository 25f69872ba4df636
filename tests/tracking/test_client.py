"""A database of MLflow's is there whole, or not at all: its migrations cannot go on where they were killed."""

from pathlib import Path
from typing import Any

import pytest
from mlflow.store.db import utils

from rspipe.tracking.client import connect_mlflow


def test_a_database_that_was_killed_while_it_was_made_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mlflow.db"

    def killed(_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(utils, "_upgrade_db", killed)
        with pytest.raises(KeyboardInterrupt):
            connect_mlflow(f"sqlite:///{path}")
    assert path.stat().st_size == 0
    client = connect_mlflow(f"sqlite:///{path}")
    experiment = client.create_experiment("one")
    assert [one.name for one in connect_mlflow(f"sqlite:///{path}").search_experiments()] == ["one", "Default"]
    assert client.get_experiment(experiment).name == "one"
    assert {one.name for one in tmp_path.iterdir()} == {"mlflow.db"}
