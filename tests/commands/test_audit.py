"""The command that audits logs: what it audits, and where it writes them."""

from pathlib import Path

import pandas as pd
import pytest

from rspipe.audit.log import read_log
from rspipe.commands.main import run


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Return a table of two logs, the second with larger radii."""
    rows = [(log, idx, 1, 1, 0.1 + 0.01 * log) for log in (7, 8) for idx in range(9)]
    path = tmp_path / "logs.parquet"
    pd.DataFrame(rows, columns=["log", "idx", "label", "predict", "radius"]).to_parquet(path)
    return path


def test_without_a_log_there_is_nothing_to_audit(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run("audit", [])
    assert ended.value.code == 2
    assert capsys.readouterr() == ("", "error: give one certification log or more\n")


def test_logs_of_one_table_are_exported_by_their_numbers(table: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        run("audit", [f"{table}#7", f"{table}#8", "--export", str(tmp_path), "--dialect", "cohen"])
    assert [read_log(tmp_path / f"logs-{number}.cohen.tsv").radius[0] for number in (7, 8)] == [0.17, 0.18]
