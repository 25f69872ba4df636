"""Facts about the sections on searches: cost and worth, trials, sensitivity."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rspipe.records import SearchResult, Trial
from rspipe.report.caveats import caveats
from rspipe.report.page import section_html
from rspipe.report.results import Results
from rspipe.report.sections import search, sensitivity
from rspipe.report.sections import trials as trials_
from rspipe.report.sections.search import cost_figure
from rspipe.report.sections.sensitivity import importance_figure, response_figure
from rspipe.report.sections.trials import front_figure, stopping_figure, stopping_sentence
from rspipe.report.tables import bracketed, quantity
from rspipe.search.sensitivity import best_so_far, front, responses
from rspipe.search.trials import search_warnings
from rspipe.smoothing.inference import difference
from rspipe.study.config import StudyConfig
from rspipe.training.methods import MethodSpec
from rspipe.training.methods.acr_weakness import ACRWeakness
from rspipe.training.methods.catrs import CATRS
from rspipe.training.methods.gaussian import Gaussian
from tests import results_builder as built
from tests.results_builder import search as trials_of_which_one_diverged
from tests.search.test_sensitivity import drawn
from tests.search.test_sensitivity import search as spec


def reported(trials: list[Trial], **changes: Any) -> Results:
    """Results of a study with one search alone."""
    of = spec()
    common = {"architecture": "digits_cnn", "training": of.training, "sigma": 0.5, "seeds": 0}
    group = {"label": "tuned", "method": of.method, "space": of.space, "trials": 40, **common, **changes}
    study = StudyConfig.model_validate(
        {"name": "s", "models": [{"label": "gaussian", "method": {"name": "gaussian"}, **common}], "search": [group]}
    )
    best = max(trials, key=lambda t: t.objective)
    result = SearchResult(
        id="s",
        label="tuned",
        sigma=0.5,
        best=best.parameters,
        best_index=best.index,
        objective=best.objective,
        default_objective=trials[0].objective,
        trials=len(trials),
    )
    return Results(study, {}, (), (result,), tuple(trials), (), ())


def sentences_of(module: Any, results: Results) -> list[str]:
    """Return the sentences of a section, each of which names the search."""
    section = module.section(results)
    assert all(sentence.startswith("tuned at σ = 0.5: ") for sentence in section.content["sentences"])
    return list(section.content["sentences"])


@pytest.mark.usefixtures("undrawn")
def test_the_report_says_what_a_search_cost_what_was_stopped_and_what_matters() -> None:
    trials = drawn()
    trials[3:6] = [replace(t, status="stopped", epochs=3, passes=30, objective=0.0) for t in trials[3:6]]
    trials[6] = replace(trials[6], status="diverged", objective=0.0, passes=1)
    results = reported(trials, algorithm="tpe", early_stopping={"grace": 1})
    (cost,), (stopped,), (matters,) = (sentences_of(part, results) for part in (search, trials_, sensitivity))
    assert cost.startswith("tuned at σ = 0.5: 40 trials, 3 stopped early, 1 diverged; 3.69 k passes.")
    assert stopped.endswith("early stopping ended 3 after epoch 3 of 9, and saved 180 passes.")
    assert matters.startswith("tuned at σ = 0.5: by 36 finished trials, ")
    assert matters.index("lbd (") < matters.index("m (")
    assert "Gaussian process" in section_html(sensitivity.section(reported(trials)))


def test_the_passes_that_stopping_saves_are_those_of_the_epochs_that_are_left() -> None:
    of_spec, (trial, *_) = spec(), drawn()
    of_spec = of_spec.model_copy(update={"training": of_spec.training.model_copy(update={"epochs": 30})})
    images, done = 1000, 3

    def said(method: MethodSpec) -> str:
        costs = [method.passes_in(epoch) for epoch in range(30)]
        passes = images * (sum(costs[:done]) + (30 if method.teacher is not None else 0))
        stopped = replace(trial, status="stopped", epochs=done, passes=passes, parameters={})
        expected = quantity(images * sum(costs[done:]))
        text = stopping_sentence(of_spec.model_copy(update={"method": method}), [stopped])
        assert text.endswith(f"ended 1 after epoch 3 of 30, and saved {expected} passes.")
        return expected

    assert said(CATRS(name="catrs", T=1, m=2, teacher_draws=5)) != said(Gaussian(name="gaussian"))
    cheap_first = ACRWeakness(name="acr_weakness", T=4, m=4, discard_epoch=10)
    assert cheap_first.passes_in(0) < cheap_first.passes_in(20)
    said(cheap_first)


def test_the_report_of_a_short_search_claims_nothing_of_hyper_parameters() -> None:
    short = reported(drawn(5))
    assert sentences_of(sensitivity, short)[0].endswith(
        "5 finished trials say nothing yet of single hyper-parameters (8 are the least)."
    )
    assert "Gaussian process" not in section_html(sensitivity.section(short))


def test_the_report_names_the_pareto_front_of_several_objectives() -> None:
    trials = [replace(t, passes=100 + t.index) for t in drawn(5)]
    sentences = sentences_of(trials_, reported(trials, algorithm="nsga2", objectives=["acr", "passes"]))
    best = front(spec(objectives=("acr", "passes")), trials)
    assert sentences[-1].endswith(f"no trial beats {', '.join(map(str, best))} in acr and passes at once.")


def test_a_response_is_drawn_with_its_band_and_the_trials() -> None:
    trials = drawn()
    fitted = responses(spec(), trials)
    figure = response_figure(trials, fitted, title="t")
    assert figure is not None
    for axes, response in zip(figure.axes, fitted, strict=True):
        mean, dots = axes.lines
        assert np.array_equal(mean.get_ydata(), response.mean)
        assert len(dots.get_xdata()) == len(trials)
        assert axes.get_xscale() == ("log" if response.log else "linear")


def test_the_cost_is_drawn_as_the_best_so_far() -> None:
    trials = drawn(6)
    figure = cost_figure(reported(trials).searches[0], trials, title="t")
    (line,) = [drawn_ for drawn_ in figure.axes[0].lines if drawn_.get_label() == "best so far"]
    spent, best = best_so_far(trials)
    assert np.array_equal(line.get_xdata(), spent)
    assert np.array_equal(line.get_ydata(), best)


def test_figures_without_data_are_left_out() -> None:
    assert importance_figure({}, title="t") is None
    assert response_figure([], (), title="t") is None
    assert front_figure(spec(), drawn(3), title="t") is None
    assert front_figure(spec(objectives=("acr", "passes")), [], title="t") is None
    assert stopping_figure(spec(), drawn(3), title="t") is None


def test_a_warning_counts_the_trials_that_were_lost_and_names_the_first() -> None:
    fitted, trials = trials_of_which_one_diverged(0.5)
    (line,) = search_warnings(fitted.id, trials)
    assert line == f"{fitted.id}: 1 of 3 trials diverged, the first of them trial 1 (lbd = 15, m = 1): loss is nan"
    again = [replace(trials[0], status="collapsed", message="knows one class"), replace(trials[1], index=7)]
    lost = [*trials, *again]
    diverged, collapsed = search_warnings(fitted.id, lost)
    assert diverged.startswith(f"{fitted.id}: 2 of 5 trials diverged, the first of them trial 1 ")
    first = "the first of them trial 0 (lbd = 4, m = 2): knows one class"
    assert collapsed == f"{fitted.id}: 1 of 5 trials collapsed, {first}"
    assert list(search_warnings(fitted.id, [trials[0]])) == []


def test_a_winner_is_judged_as_these_settings() -> None:
    results = built.results()
    (sentence, _) = search.section(results).content["sentences"]
    groups = results.groups(0.25)
    one = difference(groups["advmacer_tuned"].credits, groups["advmacer"].credits)
    assert "ACR of the winner on test images, trained in full, against advmacer: trained again, " in sentence
    assert bracketed(one.procedures, signed=True, digits=4) in sentence.partition("these models alone, ")[0]
    assert bracketed(one.models, signed=True, digits=4) in sentence.partition("these models alone, ")[2]


def test_settings_of_the_study_file_that_did_not_train_have_no_acr_to_gain_on() -> None:
    trials = drawn()
    trials[0] = replace(trials[0], status="diverged", objective=0.0)
    results = reported(trials)
    lost = replace(results, searches=(replace(results.searches[0], default_objective=None),))
    section, known = search.section(lost), search.section(results)
    assert section is not None
    assert known is not None
    (row,) = section.content["searches"].rows
    shown = dict(zip(section.content["searches"].columns, row, strict=True))
    assert (shown["ACR of the default"].text, shown["gain"].text, section.finding) == ("–", "–", "")
    assert known.finding.startswith("Winners gain ")


def test_a_winner_that_is_the_study_files_own_settings_is_said_to_be_no_other_recipe() -> None:
    results = built.results()

    def of_recipe(label: str, recipe: dict[str, Any]) -> Results:
        models = [replace(one, spec={"label": one.label, "seed": one.seed, "lr": 0.1}) for one in results.models]
        changed = [replace(one, spec=one.spec | recipe) if one.label == label else one for one in models]
        return replace(results, models=tuple(changed))

    own = of_recipe("gaussian", {"lr": 0.2})
    first = replace(own, searches=tuple(replace(one, best_index=0) for one in own.searches))
    # A later trial may have found the settings of another entry.
    for answered, why in ((first, "no trial was better"), (own, "They differ")):
        said = [sentence for sentence in caveats(answered) if "recipe" in sentence]
        assert len(said) == len(built.SIGMAS)
        for sigma, sentence in zip(built.SIGMAS, said, strict=True):
            assert sentence.startswith(
                f"At σ = {sigma:g} advmacer_tuned is the recipe of advmacer under another name: {why}"
            )
    tuned = tuple(replace(one, spec={"lr": 0.3}) if one.label == "advmacer_tuned" else one for one in own.models)
    assert not [sentence for sentence in caveats(replace(own, models=tuned)) if "recipe" in sentence]
