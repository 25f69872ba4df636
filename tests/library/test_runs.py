"""A finished run in pandas: what the report says of it, and the counts that it follows from."""

from dataclasses import replace
from pathlib import Path

import pytest

import rspipe
from rspipe.errors import StoreError
from rspipe.smoothing.sampling import DecideRule
from rspipe.storage.opening import open_store
from rspipe.study.loading import load_study
from tests.run_builder import finished_run

STUDY = """
name = "read"
architecture = "digits_cnn"
radii = [0.0, 0.1]
[training]
epochs = 1
[[models]]
method = { name = "gaussian" }
sigma = 0.25
seeds = [0, 1]
[certify]
n0 = 20
n = 200
images = 4
"""


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with two models, trained and certified without a cluster."""
    return finished_run(tmp_path_factory.mktemp("runs") / "run", STUDY)


def test_a_run_is_read_into_pandas(run_dir: Path) -> None:
    run = rspipe.read_run(run_dir)
    summaries = run.summaries
    assert summaries.name.tolist() == ["gaussian, seed 0", "gaussian, seed 1"]
    assert (summaries.acr_low <= summaries.acr).all()
    for _, rows in run.certificates.groupby("name"):
        credited = rows.radius.where(rows.correct, 0.0)
        name = rows.name.iloc[0]
        assert credited.mean() == pytest.approx(summaries[summaries.name == name].acr.iloc[0])
    curves = run.curves()
    assert curves.radius.tolist() == [0.0, 0.1] * 2
    assert (
        curves.accuracy.tolist()
        == summaries[["certified_accuracy_0", "certified_accuracy_0.1"]].to_numpy().ravel().tolist()
    )
    assert ((curves.low <= curves.accuracy) & (curves.accuracy <= curves.high)).all()
    assert run.curves([0.05]).radius.tolist() == [0.05] * 2
    counts = run.counts
    assert len(counts) == 8
    assert [sum(row) for row in counts.estimation] == [200] * 8
    assert repr(run).splitlines()[0].endswith("2 classifiers certified")


def test_curves_of_a_study_that_decides_radii_are_at_these(run_dir: Path) -> None:
    run = rspipe.read_run(run_dir)
    certify = run.results.study.certify.model_copy(update={"rule": DecideRule(radii=(0.05,))})
    results = replace(run.results, study=run.results.study.model_copy(update={"certify": certify}))
    assert rspipe.Run("", results).curves().radius.tolist() == [0.05] * 2


def test_what_is_no_finished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is no run directory"):
        rspipe.read_run(tmp_path)
    (tmp_path / "study.toml").write_text(STUDY)
    study = load_study(tmp_path / "study.toml")
    with open_store(tmp_path / "run", study, source=STUDY, environment={"commit": "none"}):
        pass
    with pytest.raises(StoreError, match="nothing is certified in it yet; run the study to its end"):
        rspipe.read_run(tmp_path / "run")
