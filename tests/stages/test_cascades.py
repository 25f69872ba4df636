"""Facts about cascades in a run directory: rows, claims, the report, what is stored, and what the checker says of it.

The counts are made up, and no Ray is needed: cascades follow from what certification has stored.
"""

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines import check_run
from rspipe.audit.log import certification_log
from rspipe.errors import StudyError
from rspipe.report.results import Results
from rspipe.report.runs import agreed_terms, compare_runs
from rspipe.report.sections.cascades import cascade_sentences, change_table, changes_against
from rspipe.report.sections.claims import judge_claims
from rspipe.smoothing.cascades import cascade
from rspipe.smoothing.counts import CountTable
from rspipe.smoothing.sampling import FixedRule
from rspipe.stages import weigh
from rspipe.stages.choose import choose_cascades
from rspipe.stages.passes import Work
from rspipe.stages.report import (
    finished_candidates,
    read_results,
    read_run,
    read_run_or_log,
    write_cascades,
    write_derived,
    write_report,
)
from rspipe.stages.weigh import _moments_id, _passes
from rspipe.storage.classifiers import certification_keys
from rspipe.storage.counts import count_rows
from rspipe.storage.opening import open_store
from rspipe.storage.store import Store
from rspipe.study.config import StudyConfig
from rspipe.study.loading import study_of_text
from rspipe.tracking.runs import study_runs
from tests.results_builder import stored_model, trained_as

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

[[cascades]]
classifiers = "gaussian"
two_sided = true

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
        noise=np.full(IMAGES, "grid 1/256"),
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
        ("gaussian over 0.5, 0.25, two-sided", 0),
        ("gaussian over 0.5, 0.25, two-sided", 1),
    ]
    for one in results.cascades:
        levels = [counts[id_] for id_ in one.record.classifiers]
        options = {"two_sided": one.record.name.endswith("two-sided")}
        expected = cascade([(c.sigma, c.selection, c.estimation) for c in levels], alpha=0.001, **options)
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
    assert len(runs) == 5
    assert ["two_sided=True" in one.note("0") for one in runs] == [False] * 3 + [True] * 2
    models = {one.key for one in study_runs(results, results.summaries, store) if one.is_classifier}
    assert {runs[0].parameters[f"level.{level}.key"] for level in (0, 1)} <= models


def test_cascades_are_derived_at_another_alpha_and_number_of_samples(run: Run) -> None:
    store, results, counts = run
    table, folder = write_derived(store, results.study, kind="certify", alpha=0.1, n=200)
    assert "σ = 0.5, gaussian over 0.5, 0.25, seed 0" in [row[0].text for row in table.rows]
    one = results.cascades[0].record
    levels = [(c.sigma, c.selection, c.prefix[:, 0]) for c in (counts[id_] for id_ in one.classifiers)]
    expected = cascade(levels, alpha=0.1)
    rows = [line.split("\t") for line in (folder / f"{one.id}.tsv").read_text().splitlines()[1:]]
    assert [int(row[2]) for row in rows] == expected.prediction.tolist()
    assert np.array([float(row[3]) for row in rows]) == pytest.approx(expected.radius, abs=1e-6)
    # Of other certificates a cascade has none.
    others, _ = write_derived(store, results.study, kind="predict", alpha=None, n=None)
    assert len(others.rows) == len(table.rows) - 5


def test_cascades_are_compared_by_their_own_certificates_alone(run: Run) -> None:
    store, results, _ = run
    certified = read_run(store.run_dir)
    comparisons = compare_runs([certified], agreed_terms([certified]), against="gaussian")
    (own,) = [one for one in comparisons if "over 0.5, 0.25 (mean" in one.first_label]
    seeds = [one.classifier.credited_radius for one in results.cascades[:2]]
    assert own.first_acr == pytest.approx(np.mean(seeds))
    assert own.sigma == 0.5
    left = certified.without_cascades()
    assert {*certified.certified} - {*left.certified} == {(one.record.name, 0.5) for one in results.cascades}
    assert not agreed_terms([left], rederive=True, n=500).by_rule


def test_a_cascade_does_not_differ_from_its_own_log_by_what_the_digits_leave_out(run: Run, tmp_path: Path) -> None:
    store, results, _ = run
    (cascade_,) = results.cascades_at(0.5)["other at 0.5, gaussian at 0.25"]
    path = tmp_path / "sigma_0.5.tsv"
    path.write_text(certification_log(cascade_, FixedRule()))
    runs = [read_run(store.run_dir).only([cascade_.record.name]), read_run_or_log(str(path))]
    (compared,) = compare_runs(runs, agreed_terms(runs))
    assert (compared.difference.models.low, compared.difference.models.high) == (0.0, 0.0)
    assert compared.first_acr == pytest.approx(cascade_.classifier.credited_radius.mean(), abs=1e-6)


CHANGES = ("cascade", "less", "of", "accuracy", "CA(0.25)", "CA(0.5)")


def share(classifiers: Any, radius: Any) -> Any:
    """Return certified accuracy in percent, averaged over classifiers, at a radius or at each of several."""
    at = np.asarray(radius)[..., None]
    return 100 * np.mean([(one.correct & (one.radius >= at)).mean(-1) for one in classifiers], axis=0)


def test_the_report_shows_both_levels_beside_a_cascade(run: Run) -> None:
    store, results, _ = run
    _, files = write_report(store, results)
    page = files["report.html"].read_text()
    for text in ("gaussian over 0.5, 0.25", "σ = 0.5 alone", "σ = 0.25 alone", "small radii only"):
        assert text in page
    assert "\ngaussian-over-0.5-0.25-seed1\t" in files["summary.tsv"].read_text()
    assert files["figures/cascade-0.svg"].read_text().startswith("<svg")


def test_the_size_of_a_claim_on_a_cascade_and_its_own_level_is_not_judged_as_of_independent_models(run: Run) -> None:
    _, results, _ = run
    claim = {"first": "gaussian over 0.5, 0.25", "second": "gaussian", "sigma": 0.5, "by": 0.001}
    content = results.study.model_dump(exclude_none=True) | {"claims": [claim]}
    (judged,) = judge_claims(replace(results, study=StudyConfig.model_validate(content)))
    assert judged.comparison.difference.procedures is not None
    assert judged.comparison.difference.procedures.verdict == "holds here"
    assert judged.size is None


def test_common_seeds_make_no_stranger_of_a_cascade_to_its_own_level(run: Run) -> None:
    _, results, _ = run
    claim = {"first": "gaussian over 0.5, 0.25", "second": "gaussian", "sigma": 0.5}
    content = results.study.model_dump(exclude_none=True) | {"claims": [claim]}
    apart = replace(results, study=StudyConfig.model_validate(content))
    asked = {"training": {"common_seeds": True}}
    common = replace(apart, models=tuple(replace(one, spec=one.spec | asked) for one in results.models))
    assert all(one.common_seed is not None for one in common.models)
    (before,), (after,) = judge_claims(apart), judge_claims(common)
    assert before.comparison.difference.procedures is not None
    assert after.comparison.difference == before.comparison.difference
    # A cascade of two labels has no independent models.
    (mixed,) = [name for name in common.cascades_at(0.5) if name.startswith("other at 0.5")]
    assert common.cascade_group(common.cascades_at(0.5)[mixed]).members == ()


def test_the_most_that_a_cascade_loses_is_over_all_radii_and_not_only_those_of_tables(run: Run) -> None:
    _, results, _ = run
    (cascades, *_) = results.cascades_at(0.5).values()
    own = [one.classifier for one in cascades]
    alone = [results.certificates(one.record.classifiers[0]) for one in cascades]
    assert all(alone)
    gained, lost, radius = changes_against(own, [one for one in alone if one is not None])

    assert gained == pytest.approx(share(own, 0) - share(alone, 0))
    radii = np.linspace(0.25, 2.0, 20_001)
    assert lost == pytest.approx(max(0.0, (share(alone, radii) - share(own, radii)).max()))
    assert lost == pytest.approx(max(0.0, share(alone, radius) - share(own, radius)))
    sentence = next(text for text in cascade_sentences(results) if text.startswith("gaussian over 0.5, 0.25"))
    assert "against σ = 0.5 alone" in sentence
    assert f"{lost:.1f} points (at {radius:.4g}) at any (these models, on these images)." in sentence
    _, at_radii, where = changes_against(own, [one for one in alone if one is not None], radii=[0.0, 0.25, 0.5])
    assert at_radii == pytest.approx(max(0.0, *(share(alone, r) - share(own, r) for r in (0.25, 0.5))))
    assert at_radii <= lost
    assert where in (0.25, 0.5)
    assert changes_against(own, own, radii=[0.0]) == (0.0, 0.0, 0.0)


def test_the_change_at_every_radius_is_that_of_the_same_models_and_judged_for_procedures_where_there_are_seeds(
    run: Run,
) -> None:
    _, results, _ = run
    rows = [dict(zip(CHANGES, row, strict=True)) for row in change_table(results).rows]
    names = [tuple(row[name].text for name in ("cascade", "less", "of")) for row in rows]
    scopes, levels = ("these procedures", "these models"), ("σ = 0.5 alone", "σ = 0.25 alone")
    assert names == [
        *product(["gaussian over 0.5, 0.25"], levels, scopes),
        *product(["other at 0.5, gaussian at 0.25"], levels, scopes[1:]),
        *product(["gaussian over 0.5, 0.25, two-sided"], levels, scopes),
    ]
    for name, cascades in results.cascades_at(0.5).items():
        own = [one.classifier for one in cascades]
        for position, level in enumerate(levels):
            alone = [results.certificates(one.record.classifiers[position]) for one in cascades]
            found = [row for row, (of, less, _) in zip(rows, names, strict=True) if (of, less) == (name, level)]
            for radius, column in zip((0.0, 0.25, 0.5), CHANGES[3:], strict=True):
                expected = share(own, radius) - share(alone, radius)
                assert [100 * row[column].value for row in found] == pytest.approx([expected] * len(found))
    # Differences of one sign in both seeds, far beyond chance.
    assert {row["accuracy"].tone for row in rows[:2]} == {"good"}


def test_no_change_is_judged_beyond_what_the_samples_can_prove(run: Run) -> None:
    _, results, _ = run
    far = replace(results, study=results.study.model_copy(update={"radii": (0.0, 0.5, 1.5)}))
    table = change_table(far)
    assert table.columns[-2:] == ("CA(0.5)", "CA(1.5)")
    assert {row[-1].text for row in table.rows} == {"–"}
    assert "–" not in {row[-2].text for row in table.rows}


def test_what_is_stored_is_proven_without_rspipe_and_nothing_more(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, results, _ = run
    write_cascades(store, results)
    assert check_run.main([str(tmp_path)]) == 0, capsys.readouterr().out
    rows, study = check_run.read(tmp_path), json.loads((tmp_path / "study.json").read_text())["study"]["certify"]
    mutated = 0
    for file in sorted((tmp_path / "cascades").glob("*.json")):
        claims = json.loads(file.read_text())
        answered = np.array(claims["level"]) >= 0
        assert {0, 1} <= set(claims["level"])
        for name, change in (
            ("radius", lambda radius: radius * (1 + 1e-6)),
            ("level", lambda level: 1 - level),
            ("prediction", lambda prediction: prediction + 1),
        ):
            other = np.where(answered, change(np.array(claims[name])), claims[name])
            file.write_text(json.dumps({**claims, name: other.tolist()}))
            refuted = ~dict(check_run.cascades(rows, study, tmp_path))[f"{file.name} is proven"]
            # Every claim at the row of its first level, and no abstention.
            changed = np.isin(rows.example, np.array(claims["example"])[answered])
            assert np.array_equal(refuted, changed & (rows.classifier == claims["classifiers"][0])), name
            mutated += int(refuted.sum())
        assert check_run.main([str(tmp_path)]) == 1
        assert f"it is not so that {file.name} is proven" in capsys.readouterr().out
        file.write_text(json.dumps(claims))
    assert mutated > 400


def test_a_plan_that_gave_up_hands_on_by_its_pilot_and_that_is_proven_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rule = '\nrule = { name = "planned", label_stop = false }\n'
    store, results, counts = written(tmp_path, STUDY + rule)
    write_cascades(store, results)
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


CHOOSING = """
[[cascades]]
classifiers = ["gaussian", "other"]
choose = "radius"

[[cascades]]
classifiers = ["gaussian", "other"]
choose = "accuracy"
sigma = [0.5, 0.25]

[weigh]
images = 20
draws = 50
"""


def vote(store: Store, study: StudyConfig, skill: dict[tuple[str, float], float]) -> None:
    """Store margins of made-up models on twenty images, the label ahead in a share of the draws."""
    rng = np.random.default_rng(0)
    for moments in _passes(study, (), finished_candidates(store, study)):
        of = [next(spec for spec in study.model_specs if spec.id == member) for member in moments.members]
        right = np.array([skill[spec.label, spec.train_sigma] for spec in of])
        margins = np.where(rng.random((20, 50, 1, len(of))) < right, 0.5, -0.5) + np.array([0.0, 0.1])[:, None]
        arrays = {"mean": margins.mean(1), "covariance": np.ones((20, 2, len(of), len(of))), "margins": margins}
        arrays["label_probability"] = np.zeros((20, 50, len(of)))
        store.save_moments(_moments_id(store, moments, "probabilities"), arrays)


def test_levels_are_chosen_by_the_calibration_images_and_never_by_the_test_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Votes say that `other` is better at sigma .5, and sigma .25 the better noise level; counts say what they say."""
    store, before, _ = written(tmp_path, STUDY + CHOOSING)
    study = before.study
    assert not any("by radius" in one.record.name for one in before.cascades)
    # The passes over calibration images have the models that are chosen from, and no ensemble.
    todo: list[Work] = []
    monkeypatch.setattr(weigh, "visit", lambda _, works, **__: todo.extend(works))
    call: dict[str, Any] = {"alone": finished_candidates(store, study), "cluster": None, "on_progress": todo.count}
    assert weigh.weigh_ensembles(store, study, (), **call) == ()
    assert {(work.sampling.sigma, len(work.sampling.members)) for work in todo} == {(0.25, 2), (0.5, 3)}
    assert {len(work.split) for work in todo} == {20}
    assert choose_cascades(store, study) == ()
    todo.clear()
    vote(store, study, {("gaussian", 0.25): 0.99, ("gaussian", 0.5): 0.6, ("other", 0.5): 0.8})
    radius, accuracy = choose_cascades(store, study)
    assert weigh.weigh_ensembles(store, study, (), **call) == ()
    assert not todo
    # There is no `other` at .25, so of eight candidates four have all their levels.
    assert (radius.sigmas, radius.entries, radius.candidates) == ((0.25, 0.5), ("gaussian", "other"), 4)
    assert (accuracy.sigmas, accuracy.entries, accuracy.candidates) == ((0.5, 0.25), ("other", "gaussian"), 2)
    assert (radius.images, radius.draws, radius.value > radius.next_value) == (20, 50, True)
    results = read_results(store, study)
    chosen = [one.record for one in results.cascades if ", by " in one.record.name]
    assert [(one.name, one.sigmas, one.seed) for one in chosen] == [
        ("gaussian or other over any, by radius", (0.25, 0.5), 0),
        ("gaussian or other over 0.5, 0.25, by accuracy", (0.5, 0.25), 0),
    ]
    write_cascades(store, results)
    assert any(
        "other at 0.5, gaussian at 0.25, the best of 2 on 20 calibration images" in one
        for one in cascade_sentences(results)
    )
    assert check_run.main([str(tmp_path)]) == 0
    # What is chosen stays.
    vote(store, study, {("gaussian", 0.25): 0.99, ("gaussian", 0.5): 0.9, ("other", 0.5): 0.6})
    assert choose_cascades(store, study) == (radius, accuracy)


def test_levels_that_were_chosen_among_other_models_are_chosen_again(tmp_path: Path) -> None:
    store, before, _ = written(tmp_path, STUDY + CHOOSING)
    vote(store, before.study, {("gaussian", 0.25): 0.99, ("gaussian", 0.5): 0.6, ("other", 0.5): 0.8})
    radius, accuracy = choose_cascades(store, before.study)
    # As of the winner of a search, before more trials found a better one.
    earlier = stored_model("tuned", 0.5, 0)
    store.save_model(earlier, {})
    among = {"members": (*radius.members, earlier.id), "checksums": (*radius.checksums, earlier.checksum)}
    store.save_cascade_choice(replace(radius, entries=("gaussian", "tuned"), **among))
    assert [*read_results(store, before.study).choices] == [accuracy.name]
    assert choose_cascades(store, before.study) == (radius, accuracy)


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
        ("two_sided = true", "", "two cascades are 'gaussian over 0.5, 0.25'"),
        (
            "two_sided = true",
            'choose = "radius"\nsigma = [0.75, 0.25]',
            "cascades[2].sigma: no model has sigma 0.75; the study has 0.25, 0.5",
        ),
        ("two_sided = true", 'choose = "best"', "valid names: accuracy, radius"),
        ("two_sided = true", 'choose = "radius"\n[[cascades]]\nclassifiers = "gausian"\nchoose = "radius"', "gausian"),
    ],
)
def test_what_is_no_cascade_is_refused(old: str, new: str, says: str) -> None:
    with pytest.raises(StudyError) as refused:
        load(STUDY.replace(old, new, 1) if old[:5] != "sigma" else new.join(STUDY.rsplit(old, 1)))
    assert says in str(refused.value)


def test_a_cascade_is_part_of_the_identity() -> None:
    without = load(STUDY[: STUDY.index("[[cascades]]")] + STUDY[STUDY.index("[certify]") :])
    assert without.id != load().id
