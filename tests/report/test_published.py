"""Published logs beside what is measured: image by image where images are shared, as two samples elsewhere."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rspipe.audit.log import log_content, parse_radii, read_log, write_log
from rspipe.data.spec import MNISTData
from rspipe.errors import LogError, StudyError
from rspipe.report.logged import logged_certificates
from rspipe.report.published import compare_with_published
from rspipe.report.sections.claims import published_table
from rspipe.smoothing.certificates import certified_radius, clopper_pearson_lower
from rspipe.smoothing.inference import difference
from rspipe.smoothing.published import difference_from_credits
from rspipe.smoothing.sampling import PlannedRule, RadiusGridRule, rule_text
from rspipe.stages.report import published_logs
from rspipe.storage.opening import open_store, read_study
from rspipe.study.config import StudyConfig
from rspipe.study.loading import load_study
from tests import results_builder as built
from tests.processes import TINY

OURS = "advmacer"


def content(one):
    """Return certificates as a log, radii with all their digits."""
    cells = zip(one.example, one.label, one.prediction, one.radius, one.correct.astype(int), strict=True)
    return write_log((*row, "0.1") for row in cells).encode()


def beside(logs, *, entry=OURS, made=None, terms=None, **changes):
    """Return the comparison with logs of certificates, by name, of an entry of the results at sigma 0.25."""
    published = [{"entry": entry, "sigma": 0.25, "logs": [*logs], "source": "a paper", **changes}]
    study = StudyConfig.model_validate(
        {**built.study().model_dump(exclude_none=True), "published": published, "claims": ()}
    )
    read = {name: logged_certificates(parse_radii(content(one), name=name), sigma=0.25) for name, one in logs.items()}
    read = {name: replace(log, **(terms or {})) for name, log in read.items()}
    (one,) = compare_with_published(replace(made or built.results(), study=study, logs=read))
    return one


def logged(seed, **changes):
    return replace(built.certified("log", "model", 0.25, skill=0.6, seed=seed, images=60), **changes)


def credit(certified):
    return np.array([one.credited_radius for one in certified])


def ours():
    return built.results().models_at(0.25)[OURS]


def test_logs_of_two_seeds_are_compared_image_by_image_as_any_two_procedures():
    one = beside({"a": logged(3), "b": logged(4)})
    expected = difference(credit(ours()), credit([logged(3), logged(4)]))
    judged, models = one.difference.procedures, one.difference.models
    for here, there in ((judged, expected.procedures), (models, expected.models)):
        for name in ("estimate", "low", "high", "p", "df"):
            assert getattr(here, name) == pytest.approx(getattr(there, name), rel=1e-9)
    assert (models.verdict, expected.models.verdict) == ("higher than", "holds for these models")
    assert one.acr == pytest.approx(credit([logged(3), logged(4)]).mean())
    assert (one.seeds, one.images) == (2, "60, image by image")
    row = dict(zip(published_table([one]).columns, published_table([one]).rows[0], strict=True))
    assert row["published ACR"].text == f"{one.acr:.4f}"
    assert row["these models are"].text == "higher than"
    assert row["other than published"].text == "nothing"


def test_one_log_is_one_more_draw_of_the_recipe_and_a_model_beside_these():
    one = beside({"a": logged(3)})
    seeds = credit(ours()).mean(1)
    assert one.difference.procedures.seed_variance == pytest.approx(seeds.var(ddof=1) * (1 / 2 + 1))
    assert one.difference.procedures.image_variance == 0
    assert one.difference.models.low == difference(credit(ours()), credit([logged(3)])).models.low


def test_a_models_own_log_is_consistent_with_it():
    first, second = ours()
    judged = beside({"a": first, "b": second}).difference
    assert (judged.models.estimate, judged.models.verdict) == (0, "consistent with")
    assert judged.procedures.verdict == "consistent with"
    # One seed here: nothing is said of the recipe.
    assert difference_from_credits(credit([first]), credit([first, second])).procedures is None


def test_logs_of_more_images_are_compared_on_those_that_are_certified_here():
    more = built.certified("log", "model", 0.25, skill=0.6, seed=3, images=90)
    one = beside({"a": more})
    assert one.images == "60, image by image"
    assert one.acr == pytest.approx(more.credited_radius[:60].mean())
    assert one.difference.models.estimate == pytest.approx(credit(ours()).mean() - one.acr)


def test_the_first_images_beside_a_longer_log_are_judged_alone():
    entry = {"entry": OURS, "sigma": 0.25, "logs": ["a"], "source": "a paper"}
    asked = built.study().model_dump(exclude_none=True) | {"published": [entry], "claims": ()}
    mnist = {"data": MNISTData(name="mnist", folder="nowhere")}
    more = logged_certificates(
        parse_radii(content(built.certified("log", "model", 0.25, skill=0.6, seed=3, images=90)), name="a"), sigma=0.25
    )

    def image_variance(images):
        study = StudyConfig.model_validate(asked | {"certify": {"images": images}}).model_copy(update=mnist)
        made = replace(built.results(), study=study, logs={"a": more})
        (one,) = compare_with_published(made)
        return one.difference.models.image_variance

    assert image_variance({"first": 60}) == 0
    assert image_variance(60) > 0


def test_logs_of_other_images_of_the_test_set_are_a_second_sample():
    made = built.results()
    spread = replace(made, certified=tuple(replace(one, example=10 * one.example) for one in made.certified))
    # Every 7th of 10,000; image 0, 70, ... of theirs are among ours.
    images = 1429
    other = built.certified("log", "model", 0.25, skill=0.6, seed=3, images=images)
    other = replace(other, example=7 * other.example, label=(other.example * 7 // 10) % 10)
    one = beside({"a": other}, made=spread)
    assert one.images == "60, of theirs 9 of 1,429"
    values = credit(ours()).mean(0)
    expected = values.var(ddof=1) / 60 * (1 + 60 / images)
    assert one.difference.models.image_variance == pytest.approx(expected)
    # The first images are a sample of nothing, here or there.
    theirs = logged(3, label=np.arange(60) // 10)
    for first in (beside({"a": replace(other, example=other.example + 60)}), beside({"a": theirs}, made=spread)):
        assert first.difference is None
        assert first.images.endswith("no sample of each other, not compared")


def test_images_that_are_numbered_otherwise_are_noticed_by_their_labels():
    one = beside({"a": logged(3, label=(np.arange(60) + 1) % 10)})
    assert (one.difference, one.images) == (None, "numbered otherwise: labels differ, not compared")


def test_other_terms_are_said_and_another_alpha_is_derived():
    one = beside({"a": logged(3)}, terms={"n": 100_000, "alpha": 0.001}, differs="fewer epochs")
    assert one.differs == "fewer epochs, n is 10,000 and 100,000"
    row = dict(zip(published_table([one]).columns, published_table([one]).rows[0], strict=True))
    assert row["these models are"].text == "higher than (under other terms)"
    # The own counts of many images at alpha 0.01 tell n; at the study's 0.001 the two are the same.
    first = built.certified("log", "model", 0.25, skill=0.85, seed=10, images=2000)
    looser = certified_radius(clopper_pearson_lower(first.n_a, built.N, alpha=0.01), sigma=0.25)
    log = replace(first, radius=np.where(first.prediction < 0, 0, looser))
    made = replace(built.results(), certified=(replace(first, id=f"{OURS}-s0.25-seed0"),))
    one = beside({"a": log}, made=made)
    assert one.differs == ""
    assert one.difference.models.estimate == pytest.approx(0, abs=1e-12)


def test_a_log_of_another_rule_is_under_other_terms_or_none():
    planned = beside({"a": logged(3)}, terms={"rule": rule_text(PlannedRule()), "n": None, "alpha": None})
    assert planned.differs == "rule is fixed and planned pilot=1000 eps=0.01 futility=0.001"
    assert planned.difference is not None
    grid = beside({"a": logged(3)}, terms={"rule": rule_text(RadiusGridRule(grid=(0.5, 1.0)))})
    assert grid.differs == "rule is fixed and radius_grid grid=0.5/1.0 futility=0.001"
    assert grid.images == "rule is radius_grid, whose radii are those of a grid: not compared"
    assert grid.difference is None


def test_ensembles_are_not_judged_as_seeds():
    one = beside({"a": logged(3), "b": logged(4)}, entry="advmacer x2 (uniform)")
    assert one.difference.procedures is None
    row = dict(zip(published_table([one]).columns, published_table([one]).rows[0], strict=True))
    assert row["this recipe is"].text == "not judged"


def table(path, logs):
    """Write logs as a table, by number."""
    parts = [(number, *row) for number, one in logs.items() for row in zip(*columns(one), strict=True)]
    types = {"log": "int32", "idx": "int32", "label": "int16", "predict": "int16", "radius": "float32"}
    schema = pa.schema([(name, pa.type_for_alias(alias)) for name, alias in types.items()])
    pq.write_table(pa.table([list(column) for column in zip(*parts, strict=True)], schema=schema), path)


def columns(one):
    return one.example, one.label, one.prediction, np.array([float(f"{radius:.3}") for radius in one.radius])


def test_a_log_in_a_table_has_the_digits_that_were_logged(tmp_path):
    path = tmp_path / "logs.parquet"
    table(path, {7: logged(3), 8: logged(4)})
    log = read_log(tmp_path / "logs.parquet#8")
    expected = columns(logged(4))
    assert [float(text) for text in log.radius_text] == expected[3].tolist()
    assert np.array_equal(log.predict, expected[2])
    for name, message in (
        ("logs.parquet", "holds 2 logs; name one by its number, as logs.parquet#0"),
        ("logs.parquet#9", "has no rows of log 9"),
        ("none.parquet#9", "No such file"),
    ):
        with pytest.raises(LogError, match=message):
            log_content(tmp_path / name)
    path.write_bytes(b"nothing")
    with pytest.raises(LogError, match="is no Parquet file"):
        log_content(path)


def test_a_run_directory_keeps_the_logs_that_its_study_names(tmp_path):
    table(tmp_path / "logs.parquet", {7: logged(3)})
    (tmp_path / "log.tsv").write_bytes(content(logged(4)))
    file = tmp_path / "study.toml"
    named = "[[published]]\nentry='gaussian'\nsigma=0.25\nsource='x'\nlogs=['logs.parquet#7', 'log.tsv']\n"
    file.write_text(f"{TINY.read_text()}\n{named}")
    study = load_study(file)
    for _ in range(2):
        with open_store(tmp_path / "run", study, source="", environment={}) as store:
            kept = published_logs(store, read_study(store))
        assert [one.example.size for one in kept.values()] == [60, 60]
        (tmp_path / "logs.parquet").unlink(missing_ok=True)
        (tmp_path / "log.tsv").unlink(missing_ok=True)
    with (
        pytest.raises(LogError, match=r"logs\.parquet: No such file"),
        open_store(tmp_path / "other", study, source="", environment={}),
    ):
        pass


@pytest.mark.parametrize(
    ("published", "message"),
    [
        ("acr=1, logs='a.tsv'", "needs acr, or the logs that say it"),
        ("sigma=0.25", "needs acr, or the logs that say it"),
        ("logs='a.tsv', seeds=2", "seeds: the logs say it"),
        ("logs=['a.tsv', 'a.tsv']", "logs names .* twice, as if it were two seeds; remove one"),
    ],
)
def test_a_figure_or_logs_are_given(published, message):
    override = f"published=[{{entry='macer', source='x', {published.replace('sigma=0.25', '')}, sigma=0.25}}]"
    with pytest.raises(StudyError, match=message):
        load_study(TINY, overrides=[override.replace(", ,", ",")])
