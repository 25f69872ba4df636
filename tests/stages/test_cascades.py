"""Facts about cascades in a run directory: rows, claims, the report, what is stored, and what the checker says of it.

The counts are made up, and no Ray is needed: cascades follow from what certification has stored.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines import check_run
from rspipe.errors import StudyError
from rspipe.report.results import Results
from rspipe.report.sections.claims import judge_claims
from rspipe.smoothing.cascades import cascade
from rspipe.smoothing.counts import CountTable
from rspipe.stages.report import read_results, write_report
from rspipe.storage.classifiers import certification_keys
from rspipe.storage.counts import count_rows
from rspipe.storage.opening import open_store
from rspipe.storage.store import Store
from rspipe.study.config import StudyConfig
from rspipe.study.loading import study_of_text
from rspipe.tracking.runs import study_runs
from tests.results_builder import trained_as

STUDY = """
name = "levels"
architecture = "digits_cnn"
radii = [0.0, 0.25, 0.5]

[training]
epochs = 1
batch_size = 64
lr = 0.05
lr_step = 1

[[models]]
method = { name = "gaussian" }
sigma = [0.25, 0.5]
seeds = [0, 1]

[[models]]
method = { name = "gaussian" }
label = "other"
sigma = 0.5
seeds = [0]

[[cascades]]
classifiers = "gaussian"

[[cascades]]
classifiers = ["other", "gaussian"]
sigma = [0.5, 0.25]

[[claims]]
first = "gaussian over 0.5, 0.25"
second = "gaussian"

[certify]
n0 = 100
n = 1000
images = 40
"""
IMAGES = 40


def load(text: str = STUDY) -> StudyConfig:
    return study_of_text(text, path=Path("levels.toml"))


def counted(model: str, sigma: float, rule: Any, seed: int) -> CountTable:
    """Return counts of three classes: at the larger sigma a third of the images has no class above 1/2."""
    rng = np.random.default_rng(seed)
    first = rng.beta(6, 2, IMAGES) if sigma < 0.5 else np.where(np.arange(IMAGES) % 3, rng.beta(8, 1, IMAGES), 0.4)
    p = np.stack([first, 0.6 * (1 - first), 0.4 * (1 - first)], axis=1)
    estimation = np.stack([rng.multinomial(1000, one) for one in p])
    early = np.stack([rng.multivariate_hypergeometric(one, 200) for one in estimation])
    prefix = np.stack([early, estimation], axis=1)
    futile, pilot = np.zeros(IMAGES, bool), np.zeros((IMAGES, 3), np.int64)
    if rule.name == "planned":
        # Every other image whose class has less than a half was given up.
        futile, pilot = (first < 0.5) & (np.arange(IMAGES) % 2 == 0), np.stack([rng.multinomial(900, one) for one in p])
        estimation[futile], prefix[futile] = 0, -1
    return CountTable(
        sigma=sigma,
        rule=rule,
        n0=100,
        n=1000,
        alpha=0.001,
        seed=0,
        classifier=np.full(IMAGES, model),
        kind=np.full(IMAGES, "model"),
        example=np.arange(IMAGES),
        label=np.zeros(IMAGES, np.int64),
        selection=np.stack([rng.multinomial(100, one) for one in p]),
        pilot=pilot,
        estimation=estimation,
        stop=np.where(futile, "futility", ""),
        marks=np.array([200, 1000]),
        prefix=prefix,
        probability_sum=np.zeros((IMAGES, 3)),
        probability_square=np.zeros((IMAGES, 3)),
        batch_size=np.full(IMAGES, 100),
        seconds=np.ones(IMAGES),
    )


def written(run_dir: Path, text: str) -> tuple[Store, Results, dict[str, CountTable]]:
    """Return a run directory with counts of every model, its results, and the counts."""
    study, counts = load(text), {}
    with open_store(run_dir, study, source=text, environment={"cpu": "none"}) as store:
        records = [trained_as(spec, seconds=1.0) for spec in study.model_specs]
        keys = certification_keys(study, records, [])
        for position, record in enumerate(records):
            store.save_model(record, {})
            table = counted(record.id, record.train_sigma, study.certify.sampling.rule, position)
            store.save_counts(count_rows(table, keys=[keys[record.id]] * IMAGES, spec=study.certify, device="cpu"))
            counts[record.id] = table
        return store, read_results(store, study), counts


@pytest.fixture
def run(tmp_path: Path) -> tuple[Store, Results, dict[str, CountTable]]:
    """Return a run directory under rule fixed."""
    return written(tmp_path, STUDY)


Run = tuple[Store, Results, dict[str, CountTable]]


def test_a_cascade_of_every_seed_follows_from_the_counts_of_its_levels(run: Run) -> None:
    _, results, counts = run
    assert [(one.record.name, one.record.seed) for one in results.cascades] == [
        ("gaussian over 0.5, 0.25", 0),
        ("gaussian over 0.5, 0.25", 1),
        ("other at 0.5, gaussian at 0.25", 0),
    ]
    for one in results.cascades:
        levels = [counts[id_] for id_ in one.record.classifiers]
        expected = cascade([(c.sigma, c.selection, c.estimation) for c in levels], alpha=0.001)
        assert np.array_equal(one.classifier.radius, expected.radius)
        assert np.array_equal(one.classifier.prediction, expected.prediction)
        assert {0, 1} <= set(one.level.tolist())
        samples = np.where(one.level == 0, 1100, 2200)
        assert np.array_equal(one.classifier.samples, samples)


def test_cascades_have_rows_claims_and_runs_of_their_own(run: Run) -> None:
    store, results, _ = run
    rows = [summary for summary in results.summaries if summary.kind == "cascade"]
    assert [(row.name, row.sigma) for row in rows[:2]] == [
        ("gaussian over 0.5, 0.25, seed 0", 0.5),
        ("gaussian over 0.5, 0.25, seed 1", 0.5),
    ]
    assert rows[0].training_seconds == 2.0
    (claim,) = judge_claims(results)
    assert (claim.comparison.sigma, claim.comparison.difference.models.verdict) == (0.5, "holds for these models")
    runs = [one for one in study_runs(results, results.summaries, store) if one.is_cascade]
    assert len(runs) == 3
    models = {one.key for one in study_runs(results, results.summaries, store) if one.is_classifier}
    assert {runs[0].parameters[f"level.{level}.key"] for level in (0, 1)} <= models


def test_the_report_shows_both_levels_beside_a_cascade(run: Run) -> None:
    store, results, _ = run
    _, files = write_report(store, results)
    page = files["report.html"].read_text()
    for text in ("gaussian over 0.5, 0.25 (mean of 2 seeds)", "σ = 0.5 alone", "σ = 0.25 alone", "small radii only"):
        assert text in page
    assert "\ngaussian-over-0.5-0.25-seed1\t" in files["summary.tsv"].read_text()
    assert files["figures/cascade-0.svg"].read_text().startswith("<svg")


def test_what_is_stored_is_proven_without_rspipe_and_nothing_more(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, results, _ = run
    write_report(store, results, figures=())
    assert check_run.main([str(tmp_path)]) == 0, capsys.readouterr().out
    file = sorted((tmp_path / "cascades").glob("*.json"))[0]
    claims = json.loads(file.read_text())
    answers = [[at for at, level in enumerate(claims["level"]) if level == wanted] for wanted in (0, 1)]
    assert all(answers)
    for at in (*answers[0], *answers[1]):
        for name, change in (("radius", 1 + 1e-6), ("level", None), ("prediction", None)):
            value = claims[name][at]
            other = value * change if change else 1 - value if name == "level" else value + 1
            file.write_text(json.dumps({**claims, name: [*claims[name][:at], other, *claims[name][at + 1 :]]}))
            assert check_run.main([str(tmp_path)]) == 1, (name, at)
    assert f"{file.name} is proven" in capsys.readouterr().out


def test_a_plan_that_gave_up_hands_on_by_its_pilot_and_that_is_proven_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rule = '\nrule = { name = "planned", label_stop = false }\n'
    store, results, counts = written(tmp_path, STUDY + rule)
    write_report(store, results, figures=())
    assert check_run.main([str(tmp_path)]) == 0, capsys.readouterr().out
    one = results.cascades[0]
    given_up = counts[one.record.classifiers[0]].stop == "futility"
    assert set(one.level[given_up].tolist()) == {-1, 1}
    # A claim of all of the share would be refuted.
    file = tmp_path / "cascades" / f"{one.record.id}.json"
    claims = json.loads(file.read_text())
    at = int(np.flatnonzero(given_up & (one.level == 1))[0])
    claims["radius"][at] *= 1 + 1e-6
    file.write_text(json.dumps(claims))
    assert check_run.main([str(tmp_path)]) == 1


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("n = 1000", 'n = 1000\nrule = "planned"', "label_stop = false"),
        ("n = 1000", 'n = 1000\nrule = "radius_grid"', "radius_grid stops by its estimation samples"),
        ('classifiers = "gaussian"', 'classifiers = "gausian"', "cascades[0].classifiers at sigma 0.5"),
        ('classifiers = "gaussian"', 'classifiers = "other"', "cascades[0].classifiers at sigma 0.25"),
        ('"other", "gaussian"]', '"other", "gaussian", "gaussian"]', "one entry for all or one for each"),
        ("sigma = [0.5, 0.25]", "sigma = [0.25, 0.5]", "descend"),
        ("sigma = [0.5, 0.25]", "sigma = 0.5", "descend"),
    ],
)
def test_what_is_no_cascade_is_refused(old: str, new: str, says: str) -> None:
    with pytest.raises(StudyError) as refused:
        load(STUDY.replace(old, new, 1) if "sigma" not in old else new.join(STUDY.rsplit(old, 1)))
    assert says in str(refused.value)


def test_a_cascade_is_part_of_the_identity() -> None:
    without = load(STUDY[: STUDY.index("[[cascades]]")] + STUDY[STUDY.index("[certify]") :])
    assert without.id != load().id
