"""Published results and claims: what is measured stands beside them, and the verdict follows from the interval."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import t

from rspipe.errors import StudyError
from rspipe.report.export import summary_markdown
from rspipe.report.page import render_report, report_chapters
from rspipe.report.published import compare_with_published
from rspipe.report.sections.claims import (
    claim_sentence,
    claim_table,
    judge_claims,
    published_table,
)
from rspipe.smoothing.inference import difference
from rspipe.smoothing.spec import CertifySpec
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


@pytest.mark.usefixtures("undrawn")
def test_an_ensemble_of_one_members_weight_is_named_as_that_member_and_settles_no_claim_on_ensembles():
    made = results_with(
        claims=[{"first": "advmacer x2 (esbrs_ratio)", "second": "advmacer x2 (uniform)", "sigma": 0.25}]
    )
    (before,) = judge_claims(made)
    assert before.reproduction != "one member alone"
    left = tuple(replace(one, weights=(0.004, 0.996)) if one.method == "esbrs_ratio" else one for one in made.ensembles)
    alone = replace(made, ensembles=left)
    (claim,) = judge_claims(alone)
    assert claim.reproduction == "one member alone"
    assert "0 of 0 judged claims" in claim_sentence([claim])
    assert "0 of 1 for these models alone" in claim_sentence([before])
    assert "0 of 0 for these models alone" in claim_sentence([claim])
    assert claim.comparison.first_label == "advmacer ×2 · ratio = advmacer, seed 1"
    assert claim.comparison.difference == before.comparison.difference
    page = render_report(alone, report_chapters(alone))
    assert "gaussian + advmacer · ratio = advmacer, seed 0" in page


def beside(**changes):
    """Return the only published result beside what is measured of AdvMacer's two seeds on images 0 to 59."""
    (one,) = compare_with_published(results_with(published=[published(0.4, **changes)]))
    return one


def test_a_published_acr_over_the_same_images_is_one_more_draw_of_the_recipe() -> None:
    one = beside(images=60)
    seeds = credit("advmacer").mean(1)
    assert one.images == "the same 60"
    judged = one.difference.procedures
    assert judged.estimate == pytest.approx(seeds.mean() - 0.4)
    # Two seeds here and one there.
    assert judged.seed_variance == pytest.approx(seeds.var(ddof=1) * (1 / 2 + 1))
    assert (judged.df, judged.image_variance) == (1, 0.0)
    # Rounded to three decimals: the interval for these models is not a point.
    assert one.difference.models.high - one.difference.models.low == pytest.approx(2 * 1.96 * 1e-3 / 12**0.5, rel=1e-3)


def test_the_scatter_of_published_seeds_comes_from_their_range() -> None:
    judged = beside(images=60, seeds=5, low=0.39, high=0.41).difference.procedures
    seeds = credit("advmacer").mean(1)
    assert judged.seed_variance == pytest.approx(seeds.var(ddof=1) / 2 + (0.02 / 2.33) ** 2 / 5)


def test_the_first_images_of_more_are_no_sample_and_are_not_compared() -> None:
    for images in (61, 10_000):
        one = beside(images=images)
        assert one.difference is None
        assert one.images == f"60 of their {images:,}: no sample of each other, not compared"


def test_a_figure_over_the_first_images_is_no_sample_of_a_test_set_that_ours_are_spread_over() -> None:
    made = results_with(published=[published(0.4, images=300), published(0.4, images=100, every=7)])
    spread = replace(made, certified=tuple(replace(one, example=10 * one.example) for one in made.certified))
    first, sampled = compare_with_published(spread)
    assert (first.difference, first.images) == (None, "60, of theirs 30 of 300: no sample of each other, not compared")
    assert sampled.difference is not None
    assert sampled.images == "60, of theirs 9 of 100"


def test_where_the_published_images_are_among_ours_they_alone_are_compared() -> None:
    one = beside(images=30)
    assert one.images == "the same 30"
    assert one.difference.models.estimate == pytest.approx(credit("advmacer")[:, :30].mean() - 0.4)
    assert one.difference.procedures.image_variance == 0


def test_images_spread_over_the_test_set_are_compared_as_a_sample_of_it() -> None:
    made = results_with(published=[published(0.4, images=600), published(0.4, images=60, every=7)])
    spread = replace(made, certified=tuple(replace(one, example=10 * one.example) for one in made.certified))
    sample, others = compare_with_published(spread)
    assert sample.images == "60 of their 600"
    assert others.images == "60, of theirs 6 of 60"
    # The finite-population factor 1 / 60 - 1 / 600 against 1 / 60 + 1 / 60 for two samples.
    ratio = others.difference.models.image_variance / sample.difference.models.image_variance
    assert ratio == pytest.approx((1 / 60 + 1 / 60) / (1 / 60 - 1 / 600))


def test_one_seed_is_not_judged_and_other_terms_are_said() -> None:
    made = results_with(published=[published(0.1, images=60, differs="fewer epochs")])
    alone = replace(made, certified=tuple(one for one in made.certified if not one.id.endswith("seed1")))
    (one,) = compare_with_published(alone)
    assert one.difference.procedures is None
    cells = dict(zip(published_table([one]).columns, published_table([one]).rows[0], strict=True))
    assert cells["this recipe is"].text == "not judged: one seed"
    assert cells["these models are"].text == "higher than (under other terms)"


def test_a_figure_is_of_certify_with_its_own_n_and_alpha() -> None:
    n, alpha = built.study().certify.n, built.study().certify.alpha
    assert beside(images=60, n=n, alpha=alpha).differs == ""
    assert beside(images=60, n=n, alpha=0.01).differs == f"alpha is {alpha:g} and 0.01"
    assert beside(images=60, alpha=alpha).differs == f"n is {n:,} and 100,000"


@pytest.mark.parametrize("rule", ["planned", "radius_grid"])
def test_a_figure_beside_another_rule_is_under_other_terms_or_none(rule: str) -> None:
    made = results_with(published=[published(0.4, images=60)])
    study = made.study.model_copy(update={"certify": CertifySpec.model_validate({"rule": rule, "n": 100_000})})
    (one,) = compare_with_published(replace(made, study=study))
    assert one.differs == f"rule is {rule} and fixed"
    assert (one.difference is None) == (rule == "radius_grid")
    if one.difference is None:
        assert one.images == "the same 60: rule is radius_grid, whose radii are those of a grid: not compared"


def test_what_is_not_certified_is_left_out() -> None:
    results = results_with(published=[published(0.4)], claims=[{"first": "advmacer", "second": "gaussian"}])
    assert compare_with_published(replace(results, certified=())) == ()
    assert judge_claims(replace(results, certified=())) == ()


def test_a_claim_is_judged_for_procedures_and_for_these_models_at_every_noise_level() -> None:
    judged = judge_claims(results_with(claims=[{"first": "advmacer", "second": "gaussian"}]))
    assert [one.comparison.sigma for one in judged] == list(built.SIGMAS)
    for one in judged:
        expected = difference(credit("advmacer", one.comparison.sigma), credit("gaussian", one.comparison.sigma))
        assert one.comparison.difference == expected
    at_quarter, at_half = judged
    assert at_quarter.comparison.difference.procedures.verdict == "holds here"
    assert at_quarter.reproduction == "reproduced"
    # A seed of the second diverged there.
    assert (at_half.comparison.difference.procedures, at_half.reproduction) == (None, "not judged")


def test_a_published_difference_below_zero_is_judged_by_its_order() -> None:
    claims = [{"first": "gaussian", "second": "advmacer", "sigma": 0.25, "by": by} for by in (-0.1, 0.1)]
    turned, wrong = judge_claims(results_with(claims=claims))
    assert (turned.comparison.first, turned.claim.size) == ("advmacer", 0.1)
    assert turned.comparison.difference.estimate == pytest.approx(-wrong.comparison.difference.estimate)
    assert turned.comparison.difference.estimate > 0


def clear(*, spread=0.0, others=0, **claim):
    """Return the judgement of a claim that is right by .1, with seeds that scatter by .001, first of a family.

    `spread`: standard deviation of the difference from image to image; `others`: claims of no difference beside it.
    """
    first = {"first": "advmacer", "second": "gaussian", "sigma": 0.25, **claim}
    made = results_with(claims=[first, *[{**first, "second": "advmacer", "by": None}] * others])
    means = {"advmacer-s0.25-seed0": 5.1, "advmacer-s0.25-seed1": 5.101, "gaussian-s0.25-seed0": 5.0}
    means["gaussian-s0.25-seed1"] = 5.001
    noise = np.random.default_rng(0).normal(0, 1, 60)
    noise = (noise - noise.mean()) / noise.std(ddof=1)
    certified = [
        replace(one, radius=means[one.id] + spread * noise * one.id.startswith("a"), prediction=one.label)
        if one.id in means
        else one
        for one in made.certified
    ]
    return judge_claims(replace(made, certified=tuple(certified)))[0]


def test_a_claim_is_reproduced_on_its_own_data_alone() -> None:
    assert clear().reproduction == "reproduced"
    elsewhere = clear(differs="CIFAR-10")
    assert elsewhere.reproduction == "other data"
    assert elsewhere.comparison.difference.procedures.verdict == "holds here"
    assert elsewhere.procedures_hold
    (row,) = claim_table([elsewhere]).rows
    assert "other data" in [cell.text for cell in row]
    assert row[-1].text.endswith("(CIFAR-10)")
    assert "holds here (with Holm)" in [cell.text for cell in row]


def test_the_size_of_a_difference_is_judged_beside_a_verdict_on_its_sign() -> None:
    assert [clear(by=by).size.verdict for by in (0.05, 0.1, 0.15)] == ["larger", "as large", "smaller"]
    assert clear().size is None
    undecided = clear(spread=1.0, by=0.1)
    assert undecided.comparison.difference.procedures.verdict == "undecided"
    assert undecided.size is None


def test_claims_of_one_seed_are_not_judged_for_procedures() -> None:
    made = results_with(claims=[{"first": "advmacer", "second": "gaussian", "sigma": 0.25}])
    alone = replace(made, certified=tuple(one for one in made.certified if one.id != "gaussian-s0.25-seed1"))
    judged = judge_claims(alone)
    assert [one.reproduction for one in judged] == ["not judged"]
    assert "not judged: one seed" in [cell.text for cell in claim_table(judged).rows[0]]
    assert "0 of 0 judged claims" in claim_sentence(judged)


def test_all_claims_are_one_family() -> None:
    """The difference is 2.8 standard errors: p = .007 on 59 degrees of freedom, below .05 / 5 and above .05 / 10."""
    spread = 0.1 / 2.8 * 60**0.5
    assert clear(spread=spread).comparison.difference.models.p == pytest.approx(2 * t.sf(2.8, 59))
    assert [clear(spread=spread, others=others).models_hold for others in (0, 4, 9)] == [True, True, False]


def test_an_ensemble_is_named_as_in_tables() -> None:
    claims = [{"first": "advmacer x2 (esbrs_ratio)", "second": "advmacer x2 (uniform)"}]
    judged = judge_claims(results_with(claims=claims))
    assert [one.comparison.first_label for one in judged] == ["advmacer ×2 · ratio"] * 2


@pytest.mark.usefixtures("undrawn")
def test_report_and_summary_show_claims_and_published_results_with_their_verdicts() -> None:
    results = results_with(
        published=[published(0.9, images=60, differs="fewer epochs")],
        claims=[{"first": "advmacer", "second": "gaussian", "source": SOURCE}],
    )
    page, text = render_report(results, report_chapters(results)), summary_markdown(results)
    for shown in (page, text):
        for word in ("these procedures", "lower than", "0.9000", "the same 60", "fewer epochs", SOURCE):
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
        (
            "published=[{entry='macer', sigma=0.25, acr=1, low=2, high=3, seeds=2, source='x'}]",
            "low = 2.0, acr = 1.0 and high",
        ),
        (
            "published=[{entry='macer', sigma=0.25, acr=1, low=1, source='x'}]",
            "low and high of their seeds belong together",
        ),
        ("published=[{entry='macer', sigma=0.25, acr=1, low=1, high=1, source='x'}]", "not of seeds = 1"),
        (
            "claims=[{first='gaussian', second='macer', sigma=[0.25, 0.75]}]",
            r"claims\[0\]\.sigma: no model has sigma 0\.75; the study has 0\.25",
        ),
        (
            "published=[{entry='macer', sigma=0.2, acr=1, source='x'}]",
            r"published\[0\]\.sigma: no model has sigma 0\.2; the study has 0\.25",
        ),
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
    assert (one.rounded_to, one.examples) == (3, range(10_000))
    assert PublishedResult(entry="a", sigma=0.5, acr=1.5581, images=500, every=20, source="").examples[-1] == 9980
    assert Claim(first="a", second="b").sigma is None
