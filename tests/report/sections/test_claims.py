"""Published results and claims: what is measured stands beside them, and the verdict follows from the interval."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import t

from rspipe.errors import StudyError
from rspipe.report.export import summary_markdown
from rspipe.report.page import render_report, report_chapters
from rspipe.report.sections.claims import compare_with_published, judge_claims
from rspipe.study.claims import Claim, PublishedResult
from rspipe.study.config import StudyConfig
from rspipe.study.loading import load_study
from tests import results_builder as built
from tests.processes import TINY

SOURCE = "a paper"


def results_with(*, published=(), claims=()):
    study = StudyConfig.model_validate(
        {**built.study().model_dump(exclude_none=True), "published": published, "claims": claims}
    )
    return built.results(study=study)


def credit(label, sigma=0.25):
    """Return the credited radii [seed, image] of a label."""
    return np.array([c.credited_radius for c in built.results().models_at(sigma)[label]])


def published(acr, **changes):
    return {"entry": "advmacer", "sigma": 0.25, "acr": acr, "source": SOURCE, **changes}


def test_an_ensemble_of_one_members_weight_is_named_as_that_member_and_settles_no_claim_on_ensembles():
    made = results_with(
        claims=[{"first": "advmacer x2 (esbrs_ratio)", "second": "advmacer x2 (uniform)", "sigma": 0.25}]
    )
    (before,) = judge_claims(made)
    assert before.verdict != "one member alone"
    left = tuple(replace(one, weights=(0.004, 0.996)) if one.method == "esbrs_ratio" else one for one in made.ensembles)
    alone = replace(made, ensembles=left)
    (claim,) = judge_claims(alone)
    assert claim.verdict == "one member alone"
    assert claim.comparison.first_label == "advmacer x2 (esbrs_ratio) = advmacer, seed 1"
    assert claim.comparison.difference == before.comparison.difference
    page = render_report(alone, report_chapters(alone))
    assert "gaussian x1 + advmacer x1 (esbrs_ratio) = advmacer, seed 0" in page


@pytest.mark.parametrize(("weights", "member"), [((0.99, 0.01), None), ((0.009, 0.991), "b"), ((0.5, 0.5), None)])
def test_a_member_is_alone_above_99_percent_of_the_weight(weights, member):
    assert built.ensemble("x", 0.25, ("a", "b"), weights=weights).sole_member == member


def test_the_interval_of_a_sample_shrinks_to_a_point_where_the_sample_is_everything() -> None:
    values = credit("advmacer").mean(0)
    half = t.ppf(0.975, 59) * values.std(ddof=1) / np.sqrt(60)
    for images, share in ((60, 0.0), (80, 0.5), (10**9, 1.0)):
        (found,) = compare_with_published(results_with(published=[published(0.4, images=images)]))
        assert found.measured.estimate == pytest.approx(values.mean())
        assert found.measured.high - found.measured.low == pytest.approx(2 * half * share, abs=1e-6)
        assert found.images == 60


def test_a_published_value_agrees_where_the_spread_of_its_seeds_and_the_images_reach_the_measured_one() -> None:
    mean = float(credit("advmacer").mean())
    exact = {"images": 60}
    cases = [
        (published(mean - 0.02, low=mean - 0.03, high=mean - 0.01, **exact), "higher", 0.02),
        (published(mean + 0.02, low=mean + 0.01, high=mean + 0.03, **exact), "lower", -0.02),
        (published(mean + 0.02, low=mean - 0.01, high=mean + 0.03, **exact), "agrees", -0.02),
        # Sixty images of many leave room for this.
        (published(mean + 0.001), "agrees", -0.001),
    ]
    for entry, verdict, difference in cases:
        (found,) = compare_with_published(results_with(published=[entry]))
        assert (found.verdict, found.difference.estimate) == (verdict, pytest.approx(difference))
        assert found.difference.low <= found.difference.estimate <= found.difference.high


def test_what_is_not_certified_is_left_out() -> None:
    assert compare_with_published(results_with(published=[published(0.4, sigma=0.75)])) == ()
    results = results_with(claims=[{"first": "advmacer", "second": "gaussian"}])
    assert judge_claims(replace(results, certified=())) == ()


def test_a_claim_is_judged_by_the_paired_interval_at_every_noise_level() -> None:
    claims = [
        {"first": "advmacer", "second": "gaussian"},
        {"first": "gaussian", "second": "advmacer", "sigma": 0.25, "by": 0.1, "source": SOURCE},
    ]
    judged = judge_claims(results_with(claims=claims))
    assert [(one.comparison.sigma, one.claim.first) for one in judged] == [
        (0.25, "advmacer"),
        (0.5, "advmacer"),
        (0.25, "gaussian"),
    ]
    difference = credit("advmacer").mean(0) - credit("gaussian").mean(0)
    half = t.ppf(0.975, 59) * difference.std(ddof=1) / np.sqrt(60)
    first, _, turned = judged
    assert first.comparison.difference.estimate == pytest.approx(difference.mean())
    assert difference.mean() - half > 0
    assert (first.verdict, turned.verdict) == ("reproduced", "contradicted")
    assert turned.comparison.difference.models.high == pytest.approx(-(difference.mean() - half), abs=1e-6)


def test_images_that_do_not_decide_make_a_claim_not_significant() -> None:
    (one,) = judge_claims(results_with(claims=[{"first": "advmacer", "second": "advmacer"}]))[:1]
    assert one.comparison.difference.estimate == 0
    assert one.verdict == "not significant"


def test_an_ensemble_is_named_as_in_tables() -> None:
    claims = [{"first": "advmacer x2 (esbrs_ratio)", "second": "advmacer x2 (uniform)"}]
    judged = judge_claims(results_with(claims=claims))
    assert [one.comparison.first_label for one in judged] == ["advmacer x2 (esbrs_ratio)"] * 2


@pytest.mark.usefixtures("undrawn")
def test_report_and_summary_show_claims_and_published_results_with_their_verdicts() -> None:
    results = results_with(
        published=[published(0.9, images=60, differs="fewer epochs")],
        claims=[{"first": "advmacer", "second": "gaussian", "source": SOURCE}],
    )
    page, text = render_report(results, report_chapters(results)), summary_markdown(results)
    for shown in (page, text):
        for word in ("reproduced", "lower", "0.9000", "60 of 60", "fewer epochs", SOURCE):
            assert word in shown
    headings = ("<h3>Claims</h3>", "<h3>Published results</h3>")
    assert all(heading in page for heading in headings)
    without = built.results()
    page = render_report(without, report_chapters(without))
    assert not any(heading in page for heading in headings)


def test_claims_and_published_results_are_no_part_of_an_identity() -> None:
    results = results_with(published=[published(0.4)], claims=[{"first": "advmacer", "second": "gaussian"}])
    assert results.study.id == built.study().id


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "claims=[{first='gausian', second='macer'}]",
            r"claims\[0\]\.first: there is no entry 'gausian'; did you mean 'gaussian'",
        ),
        (
            "claims=[{first='gaussian x2 (esbrs)', second='macer'}]",
            r"no entry 'gaussian x2 \(esbrs\)'; did you mean 'gaussian x2 \(esbrs_",
        ),
        ("published=[{entry='macer', sigma=0.25, acr=1, low=2, source='x'}]", "low = 2.0, acr = 1.0 and high = 1.0"),
        ("claims=[{first='gaussian', second='macer', by=0.1}]", "by = 0.1 needs a single sigma"),
    ],
)
def test_references_that_lead_nowhere_are_refused_in_one_line(override: str, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        load_study(TINY, overrides=[override])


@pytest.mark.parametrize(
    ("members", "name"),
    [
        ("['gaussian-s0.25-seed2', 'gaussian-s0.25-seed0']", "gaussian seeds 2,0 (uniform)"),
        ("['gaussian-s0.25-seed1', 'gaussian-s0.25-seed0']", "gaussian x2 (uniform)"),
        ("'gaussian x3', subsets='all'", "gaussian seeds 1,2 (uniform)"),
    ],
)
def test_an_ensemble_of_listed_models_or_a_subset_is_named_as_in_tables_and_not_otherwise(
    members: str, name: str
) -> None:
    ensemble = f"ensembles=[{{members={members}, weights='uniform'}}]"
    seeds = "models=[{method={name='gaussian'}, sigma=0.25, seeds=[0, 1, 2]}]"
    claim = "claims=[{{first='{}', second='gaussian'}}]"
    study = load_study(TINY, overrides=[seeds, ensemble, claim.format(name)])
    there = [f"{spec.label} ({spec.weights})" for spec in study.ensemble_specs(study.model_specs)]
    assert name in there
    as_written = claim.format("gaussian-s0.25-seed2, gaussian-s0.25-seed0 (uniform)")
    with pytest.raises(StudyError, match=r"claims\[0\]\.first: there is no entry 'gaussian-s0\.25-seed2, "):
        load_study(TINY, overrides=[seeds, ensemble, as_written])


def test_specs_have_their_defaults() -> None:
    one = PublishedResult(entry="a", sigma=0.5, acr=1.0, source="")
    assert one.span == (1.0, 1.0)
    assert Claim(first="a", second="b").sigma is None
