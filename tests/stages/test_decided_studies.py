"""Facts about a study by rule decide: certified accuracies at its radii, no ACR anywhere, and every decision proven."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn

from pipelines import check_run
from rspipe.data.splits import whole_split
from rspipe.errors import DataError, MismatchError, StudyError
from rspipe.report.results import Results
from rspipe.report.runs import agreed_terms
from rspipe.smoothing.classifiers import Classifier
from rspipe.smoothing.counting import count_image
from rspipe.stages.certify import check_grid
from rspipe.stages.report import read_results, read_run, write_derived, write_report
from rspipe.storage.classifiers import certification_keys
from rspipe.storage.counts import count_rows
from rspipe.storage.opening import open_store
from rspipe.storage.store import Store
from rspipe.study.loading import study_of_text
from rspipe.tracking.runs import study_runs
from tests.results_builder import trained_as

STUDY = """
name = "decided"
architecture = "digits_cnn"

[training]
epochs = 1
batch_size = 64
lr = 0.05
lr_step = 1

[[models]]
method = { name = "gaussian" }
sigma = 0.5
seeds = [0, 1]

[[models]]
method = { name = "gaussian" }
label = "other"
sigma = 0.5
seeds = [0]

[[claims]]
first = "gaussian"
second = "other"

[certify]
rule = { name = "decide", radii = [0.1, 0.3] }
n = 3000
images = 12
"""
DISTANCES = np.linspace(-0.2, 0.9, 12)


class Line(nn.Module):
    """Two classes by the first number."""

    def forward(self, batch: Tensor) -> Tensor:
        return torch.stack([-batch[:, 0], batch[:, 0]], dim=1)


@pytest.fixture
def run(tmp_path: Path) -> tuple[Store, Results]:
    """Return a run directory with the decisions of each model at twelve inputs, and its results."""
    study = study_of_text(STUDY, path=Path("decided.toml"))
    with open_store(tmp_path, study, source=STUDY, environment={"cpu": "none"}) as store:
        records = [trained_as(spec) for spec in study.model_specs]
        keys = certification_keys(study, records, [])
        classifiers = [Classifier(record.id, (0,), (1.0,)) for record in records]
        call: dict[str, Any] = {"label": 1, "sigma": 0.5, "spec": study.certify.sampling, "classes": 2}
        rows = [
            count_rows(
                count_image([Line()], classifiers, torch.tensor([distance, 0.0]).float(), example=example, **call),
                keys=[keys[record.id] for record in records],
                spec=study.certify,
                device="cpu",
            )
            for example, distance in enumerate(DISTANCES.tolist())
        ]
        store.save_counts(pa.concat_tables(rows))
        for record in records:
            store.save_model(record, {})
        return store, read_results(store, study)


def test_tables_have_certified_accuracies_at_the_radii_of_the_rule_and_no_acr(run: tuple[Store, Results]) -> None:
    store, results = run
    summary = results.summaries[0]
    assert (summary.radii, np.isnan(summary.acr.estimate), np.isnan(summary.accuracy)) == ((0.1, 0.3), True, True)
    # Of distances from -.2 to .9 those well above the radius; those next to it may be open.
    for radius, share in zip(summary.radii, summary.certified_accuracy, strict=True):
        assert (radius + 0.08 < DISTANCES).mean() <= share <= (radius < DISTANCES).mean()
    assert summary.samples < 1500
    _, files = write_report(store, results)
    table = files["summary.md"].read_text()
    assert "CA(0.1)" in table
    assert not any(word in table for word in ("ACR", "abstained", "saturated"))
    page = files["report.html"].read_text()
    assert "there is no average certified radius" in page
    assert "mean ACR" not in page
    assert not any(word in page for word in ("ACR ±", ">abstained</th>", ">saturated</th>", ">Certified accuracy<"))
    # Nor has MLflow a curve between the radii that were asked for.
    (first, *_) = [one for one in study_runs(results, results.summaries, store) if one.is_classifier]
    of_certificates = ("certified_accuracy", "CA/", "radius")
    certified = [point for point in first.points if "acr" in point.name or point.name.startswith(of_certificates)]
    shown = {point.name: point.value for point in certified if not np.isnan(point.value)}
    assert {*shown} == {"CA/0.10", "CA/0.30"}


def test_every_decision_is_proven_again(run: tuple[Store, Results], capsys: pytest.CaptureFixture[str]) -> None:
    assert check_run.main([str(run[0].run_dir)]) == 0, capsys.readouterr().out


def test_decisions_are_derived_at_another_alpha_and_not_compared_by_an_acr(run: tuple[Store, Results]) -> None:
    store, results = run
    table, _ = write_derived(store, results.study, kind="certify", alpha=0.1, n=None)
    assert {"CA(0.1)", "CA(0.3)"} <= set(table.columns)
    assert not any("ACR" in column for column in table.columns)
    one = read_run(store.run_dir)
    with pytest.raises(MismatchError, match="rule decide asks for given radii"):
        agreed_terms([one, one])


def test_radii_that_no_sample_size_could_settle_and_cascades_are_refused() -> None:
    with pytest.raises(StudyError, match="must ascend"):
        study_of_text(STUDY.replace("[0.1, 0.3]", "[0.3, 0.1]"), path=Path("decided.toml"))
    levels = STUDY.replace("sigma = 0.5\nseeds = [0, 1]", "sigma = [0.25, 0.5]\nseeds = [0, 1]")
    with pytest.raises(StudyError, match="rule decide stops by its estimation samples"):
        study_of_text(levels + '\n[[cascades]]\nclassifiers = "gaussian"\n', path=Path("decided.toml"))


def test_noise_on_a_grid_is_refused_with_the_first_image_that_is_on_none() -> None:
    study = study_of_text(STUDY + 'noise = "grid"\n', path=Path("decided.toml"))
    bytes_, other = torch.arange(64).reshape(1, 1, 8, 8) / 255, torch.full((1, 1, 8, 8), 0.3)
    on_grid = whole_split(bytes_, torch.zeros(1, dtype=torch.int64))
    check_grid(on_grid, study)
    both = whole_split(torch.cat([bytes_, other]), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(DataError, match=r"image 1: noise = 'grid' needs numbers that are multiples of 1/255 or 1/256"):
        check_grid(both, study)
