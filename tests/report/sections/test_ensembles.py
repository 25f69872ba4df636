"""Facts about the report's section on ensembles: its numbers against the records that they are made from."""

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rspipe.report.page import report_chapters, section_html
from rspipe.report.questions import answer_questions
from rspipe.report.results import Results
from rspipe.report.section import Level
from rspipe.report.sections.changes import change_level
from rspipe.report.sections.combinations import combination_table
from rspipe.report.sections.landscapes import landscape, landscapes, simplex_grid
from rspipe.report.sections.limits import limit_table
from rspipe.report.sections.noise import noise_level
from rspipe.report.sections.pruning import cap_sentence, pruning_sentences
from rspipe.report.sections.sizes import curves_by_size, size_figure, size_table
from rspipe.report.tables import Table
from tests import results_builder as build


def made(**changes: Any) -> Results:
    shown = build.results(margins=tuple(build.margins(sigma) for sigma in build.SIGMAS))
    return replace(shown, **changes)


def noise(results: Results) -> Level:
    level = noise_level(results, sigma=0.25)
    assert level is not None
    return level


def changes(results: Results) -> Level:
    level = change_level(results, sigma=0.25)
    assert level is not None
    return level


def column(table: Table, name: str) -> list[float | None]:
    place = table.columns.index(name)
    return [row[place].value for row in table.rows]


def texts(table: Table, name: str) -> list[str]:
    place = table.columns.index(name)
    return [row[place].text for row in table.rows]


def test_single_models_averages_and_solved_weights_stand_side_by_side() -> None:
    results = made()
    table = combination_table(results, sigma=0.25)
    assert texts(table, "combination") == ["single (mean of members)", "average", "weights esbrs_ratio"] * 2
    certified = {c.id: c for c in results.certified}
    members = [certified[member].credited_radius.mean() for member in results.ensembles[0].members]
    average, solved = (certified[record.id].credited_radius.mean() for record in results.ensembles[:2])
    assert column(table, "ACR [95 %]")[:3] == pytest.approx([np.mean(members), average, solved])
    assert column(table, "less the average, these models [95 %]")[:3] == [
        pytest.approx(np.mean(members) - average),
        None,
        pytest.approx(solved - average),
    ]


def test_certification_time_is_the_members_share_of_the_pass() -> None:
    """A second for 60 images of a pass of six models; an ensemble of two has a third of it."""
    table = combination_table(made(), sigma=0.25)
    times = column(table, "certification of an image")
    assert times[:3] == pytest.approx([1 / 60 / 6, 2 / 60 / 6, 2 / 60 / 6])


def test_an_ensemble_with_one_combination_alone_has_no_row() -> None:
    results = made()
    uniform = tuple(record for record in results.ensembles if record.method == "uniform")
    assert combination_table(replace(results, ensembles=uniform), sigma=0.25).rows == ()


def test_mme_is_named_as_in_the_paper() -> None:
    results = made()
    ensembles = tuple(replace(one, method="mme") if one.method == "esbrs_ratio" else one for one in results.ensembles)
    assert "MME" in texts(combination_table(replace(results, ensembles=ensembles), sigma=0.25), "combination")


def test_methods_that_are_less_correlated_are_found_to_lower_the_variance() -> None:
    shown = noise(made())
    assert texts(shown.table, "methods") == ["advmacer, within", "gaussian, within", "advmacer and gaussian, across"]
    within, _, across = column(shown.table, "covariance of two [95 %]")
    # The builder's correlations.
    variance = column(shown.table, "variance of one [95 %]")[0]
    assert variance is not None
    assert within == pytest.approx(0.7 * variance)
    assert across == pytest.approx(0.4 * variance)
    assert shown.sentences == (
        "For these models alone, mixing lowers the variance: advmacer + gaussian against advmacer ×2.",
    )


def test_methods_that_are_more_correlated_than_models_of_one_raise_it() -> None:
    results = made(margins=(build.margins(0.25, correlations=(0.3, 0.6)),))
    assert noise(results).sentences == (
        "For these models alone, mixing raises the variance: advmacer + gaussian against advmacer ×2.",
    )


def test_measured_changes_are_paired_differences_against_the_members() -> None:
    results = made()
    shown = changes(results)
    certified = {c.id: c for c in results.certified}
    record = results.ensembles[0]
    members = np.mean([certified[member].credited_radius for member in record.members], axis=0)
    change = certified[record.id].credited_radius - members
    assert column(shown.table, "measured [95 %]")[0] == pytest.approx(change.mean())
    # Two of correlation 0.7 have a variance of 0.85.
    assert column(shown.table, "variance")[0] == pytest.approx(0.85)
    assert shown.sentences[0] == (
        "For these models, no ensemble is certainly lower than its members on average; 2 cannot be told apart from "
        "their members."
    )
    assert " of 4 are off by more than 1.96 standard errors, where 0.2 would be" in shown.sentences[-1]


LOST = "gaussian-x1-+-advmacer-x1-uniform-probabilities-s0.25"


def lost(results: Results) -> list[str]:
    """Return the sentences on changes where an ensemble has small radii."""
    certified = tuple(
        replace(one, radius=np.where(one.radius > 0, 0.05, 0.0)) if one.id == LOST else one for one in results.certified
    )
    assert LOST in {one.id for one in certified}
    return list(changes(replace(results, certified=certified)).sentences)


@pytest.mark.parametrize(
    ("weak", "reason"),
    [(1.0, "the calibration images do not predict it (+0."), (0.3, "a member has far noisier margins than the best")],
)
def test_an_ensemble_that_lost_is_explained(weak: float, reason: str) -> None:
    sentences = lost(made(margins=(build.margins(0.25, weak=weak),)))
    assert "gaussian + advmacer has a lower ACR than its members on average" in sentences[0]
    assert reason in sentences[0]


def test_an_ensemble_that_lost_since_votes_do_not_follow_the_variance_is_explained() -> None:
    """A member is always right, by .1 or .7; the other is wrong by .8 at a third of the draws, and outvotes it."""
    known = build.margins(0.25, draws=60)
    wrong = np.arange(60) % 3 == 0
    margins = np.zeros((40, 60, 3, 3))
    margins[..., 0] = margins[..., 1] = np.where(np.arange(60) % 2 == 0, 0.7, 0.1)[:, None]
    margins[..., 2] = np.where(wrong, -0.8, 0.8)[:, None]
    shown = replace(known, calibration=replace(known.calibration, margins=margins))
    sentences = lost(made(margins=(shown,)))
    assert "margins are not Gaussian, and members with large ones can outvote" in sentences[0]


def test_predictions_are_counted_where_margins_were_kept() -> None:
    counted = changes(made(margins=(build.margins(0.25, draws=100),)))
    assert counted.table.columns == (
        "ensemble",
        "predicted [95 %]",
        "saturated",
        "measured [95 %]",
        "as if Gaussian [95 %]",
        "variance",
    )
    assert [sentence.partition(":")[0] for sentence in counted.sentences[-4:]] == [
        *["Predicted"] * 2,
        *["As if Gaussian"] * 2,
    ]
    shown = build.margins(0.25, draws=100).of(made().ensembles[0].members)
    change = 0.25 * (shown.radii(np.array([0.5, 0.5])) - shown.radii(np.eye(2)).mean(0))
    assert column(counted.table, "predicted [95 %]")[0] == pytest.approx(change.mean())
    assert column(counted.table, "saturated")[0] == pytest.approx(shown.saturated(np.array([0.5, 0.5])))
    before = changes(made(margins=(build.margins(0.25),)))
    assert "predicted [95 %]" not in before.table.columns
    assert column(before.table, "as if Gaussian [95 %]") == pytest.approx(
        column(counted.table, "as if Gaussian [95 %]")
    )


def test_a_useless_member_is_a_candidate_to_be_dropped() -> None:
    results = made(margins=(build.margins(0.25, weak=-0.3),))
    (sentence,) = pruning_sentences(results, sigma=0.25)
    assert sentence.startswith("Of these models, gaussian, seed 0 could be dropped from an ensemble of all 3: ")
    assert "save 33 %" in sentence
    assert "none could be dropped" in " ".join(pruning_sentences(made(), sigma=0.25))


def test_the_cap_is_that_of_n_and_alpha() -> None:
    sentence = cap_sentence(made(), sigma=0.25)
    assert sentence is not None
    assert sentence.startswith("n = 10,000 samples at α = 0.001 prove no radius beyond 0.800")


def subset(results: Results, members: tuple[str, ...], label: str, skill: float) -> Results:
    record = build.ensemble(label, 0.25, members)
    certificate = build.certified(record.id, "ensemble", 0.25, skill=skill, seed=len(record.id))
    return replace(results, ensembles=(*results.ensembles, record), certified=(*results.certified, certificate))


def test_radii_are_averaged_over_the_ensembles_of_a_size() -> None:
    results = subset(made(), ("advmacer-s0.25-seed0", "advmacer-s0.25-seed7"), "advmacer seeds 0,7", 0.8)
    models = (*results.models, build.trained_model("advmacer", 0.25, 7))
    curves = curves_by_size(replace(results, models=models), sigma=0.25)
    sizes = curves["advmacer"]
    certified = {c.id: c.credited_radius for c in results.certified}
    assert list(sizes) == [1, 2]
    np.testing.assert_allclose(sizes[1], (certified["advmacer-s0.25-seed0"] + certified["advmacer-s0.25-seed1"]) / 2)
    pairs = [r.id for r in results.ensembles if r.sigma == 0.25 and r.method == "uniform" and "gaussian" not in r.label]
    np.testing.assert_allclose(sizes[2], np.mean([certified[one] for one in pairs], axis=0))
    assert {name: list(shown) for name, shown in curves.items()} == {"advmacer": [1, 2], "gaussian + advmacer": [2]}


def test_mixed_ensembles_stand_beside_as_many_models_of_their_best_method() -> None:
    results = made()
    table = size_table(results, sigma=0.25)
    assert texts(table, "members of") == ["advmacer", "advmacer", "gaussian + advmacer"]
    assert column(table, "k") == [1, 2, 2]
    assert texts(table, "best method alone") == ["–", "–", "advmacer ×2"]
    certified = {c.id: c.credited_radius for c in results.certified}
    uniform = {r.label: certified[r.id] for r in results.ensembles if r.sigma == 0.25 and r.method == "uniform"}
    own = {name: [certified[f"{name}-s0.25-seed{seed}"].mean() for seed in (0, 1)] for name in ("advmacer", "gaussian")}
    single = np.mean(own["advmacer"])
    mixed, alone = uniform["gaussian x1 + advmacer x1"].mean(), uniform["advmacer x2"].mean()
    assert column(table, "ACR [95 %]") == pytest.approx([single, alone, mixed])
    # Of the first seeds alone, as the mixed ensemble is.
    assert column(table, "less its members' mean, these models [95 %]")[1:] == pytest.approx(
        [alone - single, mixed - (own["advmacer"][0] + own["gaussian"][0]) / 2]
    )
    assert column(table, "less that, these models [95 %]")[2] == pytest.approx(mixed - alone)


@pytest.mark.parametrize("better", ["gaussian", "advmacer"])
def test_of_the_methods_mixed_the_better_one_on_validation_images_is_compared_with(better: str) -> None:
    results = subset(made(), ("gaussian-s0.25-seed0", "gaussian-s0.25-seed1"), "gaussian x2", 0.3)
    models = tuple(replace(model, noisy_accuracy=0.95 if model.label == better else 0.9) for model in results.models)
    table = size_table(replace(results, models=models), sigma=0.25)
    shown = dict(zip(zip(texts(table, "members of"), column(table, "k"), strict=True), table.rows, strict=True))
    best = table.columns.index("best method alone")
    assert shown["gaussian + advmacer", 2][best].text == f"{better} ×2"
    assert shown["gaussian", 2][best].text == "–"
    # What a checkpoint was evaluated on may be test images.
    loaded = tuple(replace(model, source="checkpoint") for model in models)
    assert {*texts(size_table(replace(results, models=loaded), sigma=0.25), "best method alone")} == {"–"}


def test_the_limit_is_predicted_where_a_method_has_two_models() -> None:
    table = limit_table(made(), sigma=0.25)
    assert texts(table, "method") == ["advmacer"]
    gains = [column(table, name)[0] for name in ("k = 2", "k = 4", "k = 8", "k = ∞")]
    assert gains == sorted(gains, key=lambda gain: gain or math.nan)


def test_subsets_are_not_listed_one_by_one() -> None:
    results = subset(made(), ("advmacer-s0.25-seed1", "gaussian-s0.25-seed0"), "advmacer seed 1 + gaussian seed 0", 0.8)
    assert texts(changes(results).table, "ensemble") == texts(changes(made()).table, "ensemble")
    # But they count where predictions are set against measurements.
    assert " of 4 are off by more than 1.96 standard errors" in changes(made()).sentences[-1]
    assert " of 5 are off by more than 1.96 standard errors" in changes(results).sentences[-1]
    assert answer_questions(results) != ()
    assert not any(
        "seed 1 + gaussian" in one.first_label for one in answer_questions(results) if "mixing" in one.question
    )


def test_the_grid_is_the_whole_simplex() -> None:
    grid = simplex_grid(3, 4)
    assert len(grid) == 15
    np.testing.assert_allclose(grid.sum(1), 1)
    assert len(np.unique(grid, axis=0)) == 15


def test_the_landscape_is_the_acr_counted_and_of_gaussian_margins() -> None:
    calibration = build.margins(0.25, draws=30).calibration
    shown = landscape(calibration, sigma=0.25)
    point = shown.weights[17]
    assert shown.counted[17] == pytest.approx(0.25 * calibration.radii(point).mean())
    assert shown.gaussian[17] == pytest.approx(0.25 * calibration.gaussian_radii(point).mean())
    assert abs(shown.counted - shown.gaussian).max() > 0.01


def test_landscapes_are_drawn_for_two_and_three_members_with_several_weightings() -> None:
    results = made()
    three = tuple(f"{name}-s0.25-seed{seed}" for name, seed in build.MEMBERS)
    for method in ("uniform", "esbrs_acr"):
        record = build.ensemble("advmacer x2 + gaussian x1", 0.25, three, method=method)
        results = replace(results, ensembles=(*results.ensembles, record))
    shown = landscapes(results, sigma=0.25, most=3)
    titles = [figure.axes[0].get_title(loc="left") for figure, _ in shown]
    labels = ("advmacer ×2", "gaussian + advmacer", "advmacer ×2 + gaussian")
    assert titles == [f"Weights of {label}, σ = 0.25" for label in labels]
    for title, (_, sentence) in zip(titles, shown, strict=True):
        assert sentence.startswith(f"{title}: counted, the ACR is largest, ")
    # Weights that a sentence names add up.
    for text in re.findall(r"at weights ([0-9., ]+[0-9])", shown[2][1]):
        assert sum(map(float, text.split(", "))) == pytest.approx(1)


def test_the_acr_is_drawn_against_the_number_of_members() -> None:
    figure = size_figure(made(), sigma=0.25)
    assert figure is not None
    lines = {line.get_label(): line.get_xydata() for line in figure.axes[0].lines}
    sizes = curves_by_size(made(), sigma=0.25)["advmacer"]
    np.testing.assert_allclose(lines["advmacer"], [[k, radii.mean()] for k, radii in sizes.items()])
    assert "gaussian + advmacer" in lines


CHAPTER = "What ensembles give, and why"


def test_a_study_without_ensembles_has_no_such_sections() -> None:
    models = tuple(one for one in made().certified if one.kind == "model")
    assert CHAPTER not in report_chapters(made(ensembles=(), margins=(), certified=models))


@pytest.mark.usefixtures("undrawn")
def test_the_report_holds_the_sections_with_their_noise_levels() -> None:
    results = made()
    pages = {section.name: section_html(section) for section in report_chapters(results)[CHAPTER]}
    assert list(pages) == ["combinations", "noise", "changes", "sizes", "limits", "pruning", "landscapes"]
    for name, title in {
        "combinations": "One model, average, MME and solved weights",
        "noise": "Noise within and across methods and architectures",
        "changes": "Predicted and measured change of ACR",
        "sizes": "ACR against the number of members",
        "limits": "More and more models of one method",
        "pruning": "Members to drop, and the cap",
    }.items():
        for sigma in build.SIGMAS:
            assert f"<h3>{title}, σ = {sigma:g}</h3>" in pages[name]
    assert pages["landscapes"].count("<figure ") == len(build.SIGMAS)
