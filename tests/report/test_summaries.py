"""Facts about summaries and paired comparisons of a study's results."""

from dataclasses import replace

import numpy as np
import pytest

from rspipe.report.questions import (
    AVERAGING,
    BEST_MEMBER,
    COMBINING,
    METHOD,
    MIXING,
    SEARCH,
    WEIGHTS,
    answer_questions,
)
from rspipe.smoothing.counts import CountTable
from rspipe.smoothing.derivation import CertifiedClassifier, certified_classifier, derive
from rspipe.smoothing.inference import contrast
from rspipe.smoothing.metrics import average_certified_radius
from rspipe.smoothing.sampling import FixedRule, PlannedRule, RadiusGridRule
from tests.results_builder import ALPHA, N0, SIGMAS, N, ensemble, results, study, trained_model


@pytest.fixture(scope="module")
def made():
    return results()


def classifier(id_, radius, *, kind="model", sigma=0.25, first=0):
    """Certificates with the given radii; a negative one marks a wrong prediction."""
    radius = np.asarray(radius, dtype=np.float64)
    size = radius.size
    example = np.arange(first, first + size)
    wrong = (radius < 0).astype(np.int64)
    return CertifiedClassifier(
        id=id_,
        kind=kind,
        sigma=sigma,
        example=example,
        label=np.zeros(size, int),
        prediction=wrong,
        radius=abs(radius),
        n_a=wrong,
        p_a_lower=np.full(size, 0.5),
        n=np.full(size, N),
        samples=np.full(size, N0 + N),
        stopped=np.zeros(size, dtype=bool),
        rule="fixed",
        two_sided=0.0,
        seconds=1.0,
        noise=np.full(size, "float"),
    )


def small(certified, *, models=(), ensembles=(), of=None):
    """Results of a few classifiers."""
    return replace(
        results(), study=of or study(), models=tuple(models), ensembles=tuple(ensembles), certified=tuple(certified)
    )


def test_every_certified_classifier_has_a_summary_by_noise_level_models_first_in_study_order(made):
    summaries = made.summaries
    assert {s.id for s in summaries} == {c.id for c in made.certified}
    records = [*made.models, *made.ensembles]
    order = {record.id: place for place, record in enumerate(records)}
    keys = [(s.sigma, s.kind == "ensemble", order[s.id]) for s in summaries]
    assert keys == sorted(keys)


def test_a_summary_says_what_the_certificates_say(made):
    for summary in made.summaries:
        (of,) = [c for c in made.certified if c.id == summary.id]
        right = of.prediction == of.label
        assert summary.acr.estimate == pytest.approx(sum(of.radius[right]) / of.example.size)
        assert summary.accuracy == right.mean()
        assert summary.radii == made.study.radii
        at = [np.mean(right & (of.radius >= radius)) for radius in made.study.radii]
        assert summary.certified_accuracy == pytest.approx(at)
        assert summary.abstained == np.mean(of.prediction == -1)
        assert summary.saturated == np.mean(of.n_a == N) > 0
        assert (summary.images, summary.samples) == (of.example.size, N0 + N)
        assert (summary.rule, summary.acr_two_sided) == ("fixed", of.two_sided)


def test_images_given_up_after_the_selection_are_wrong_but_did_not_abstain():
    one = replace(
        classifier("m", [0.5, 0.7, 0.0, 0.0, 0.0]),
        prediction=np.array([0, 0, -1, -1, -1]),
        stopped=np.array([False, False, False, True, True]),
        samples=np.array([900, 700, 200, 100, 100]),
        rule="planned",
    )
    (summary,) = small([one], models=[trained_model("gaussian", 0.25, 0, id="m")]).summaries
    assert (summary.accuracy, summary.abstained, summary.samples, summary.rule) == (0.4, 0.2, 400, "planned")


def test_saturated_images_have_all_of_their_own_samples_on_one_class():
    n, n_a = np.array([1000, 200, 200, 0]), np.array([999, 200, 199, 0])
    one = replace(classifier("m", [0.1] * 4), n=n, n_a=n_a)
    (summary,) = small([one], models=[trained_model("gaussian", 0.25, 0, id="m")]).summaries
    assert summary.saturated == 0.25


RULES = {
    "fixed": FixedRule(),
    "planned": PlannedRule(name="planned"),
    "radius_grid": RadiusGridRule(name="radius_grid", grid=(0.25, 0.5)),
}


def counted(rule, **changes):
    """Counts of three images of class 1 in n = 500: sure, in doubt, and given up after the selection."""
    estimation = np.array([[10, 480, 10], [200, 240, 60], [0, 0, 0]])
    prefix = np.array([[[4, 192, 4], [10, 480, 10]], [[80, 96, 24], [200, 240, 60]], np.full((2, 3), -1)])
    content = {
        "classifier": np.full(3, "m"),
        "kind": np.full(3, "ensemble"),
        "sigma": 0.5,
        "rule": RULES[rule],
        "n0": 100,
        "n": 500,
        "alpha": ALPHA,
        "seed": 3,
        "example": np.array([2, 5, 9]),
        "label": np.ones(3, int),
        "selection": np.array([[0, 100, 0], [30, 60, 10], [90, 5, 5]]),
        "pilot": np.array([[20, 880, 0], [400, 500, 0], [0, 0, 0]]) * (rule == "planned"),
        "estimation": estimation,
        "stop": np.array(["", "futility", "label"]),
        "marks": np.array([200, 500]),
        "prefix": prefix,
        "probability_sum": np.zeros((3, 3)),
        "probability_square": np.zeros((3, 3)),
        "batch_size": np.full(3, 100),
        "seconds": np.array([1.0, 1.0, 0.5]),
        "noise": np.array(["grid 1/255", "grid 1/255", "float"]),
    }
    return CountTable(**{**content, **changes})


@pytest.mark.parametrize("rule", RULES)
def test_a_certified_classifier_is_what_its_counts_say(rule):
    counts = counted(rule)
    answered, own = certified_classifier(counts), derive(counts)
    for name in ("id", "sigma"):
        assert getattr(answered, name) == getattr(counts, name)
    assert (answered.rule, answered.kind, answered.seconds) == (rule, "ensemble", 2.5)
    for name in ("example", "label"):
        assert np.array_equal(getattr(answered, name), getattr(counts, name))
    for name in ("prediction", "radius", "n_a", "p_a_lower"):
        assert np.array_equal(getattr(answered, name), getattr(own, name))
    assert answered.prediction.tolist() == [1, -1, -1]
    assert answered.n.tolist() == [500, 500, 0]
    pilot = 900 if rule == "planned" else 0
    assert answered.samples.tolist() == [600 + pilot, 600 + pilot, 100]
    assert answered.stopped.tolist() == [False, False, True]


def test_the_two_sided_acr_stands_beside_the_rules_own():
    counts = counted("fixed")
    both = derive(counts, kind="two_sided")
    # The image in doubt, 48 % against 40 %, is not certified by one side and the sure one gains.
    assert both.prediction.tolist() == [1, -1, -1]
    assert certified_classifier(counts).two_sided == pytest.approx(both.radius[0] / 3)
    assert both.radius[0] > derive(counts).radius[0]


@pytest.mark.parametrize("rule", ["planned", "radius_grid"])
def test_a_rule_that_may_end_images_early_has_no_two_sided_acr(rule):
    assert np.isnan(certified_classifier(counted(rule)).two_sided)


def test_an_ensemble_costs_the_training_of_all_its_members(made):
    trained = {model.id: model for model in made.models}
    for summary in made.summaries:
        members = summary.members or (summary.id,)
        assert summary.training_seconds == pytest.approx(sum(trained[m].seconds for m in members))
        assert summary.passes == sum(trained[m].passes for m in members)


def test_certificates_without_a_record_are_left_out(made):
    assert replace(made, models=(), ensembles=()).summaries == ()
    assert answer_questions(replace(made, models=(), ensembles=())) == ()


def test_nothing_certified_gives_nothing(made):
    empty = replace(made, certified=())
    assert (empty.summaries, answer_questions(empty), empty.seed_averages) == ((), (), ())


def test_seeds_are_averaged_per_image_before_the_difference():
    models = [trained_model(label, 0.25, seed) for label in ("gaussian", "advmacer") for seed in (0, 1)]
    radii = [[0.1, 0.3, -1.0], [0.3, 0.1, -1.0], [0.5, 0.6, 0.0], [0.7, 0.8, 0.4]]
    pairs = zip(models, radii, strict=True)
    (difference,) = answer_questions(small([classifier(m.id, r) for m, r in pairs], models=models))
    # Per image: advmacer .6, .7, .2; gaussian .2, .2, 0.
    paired = np.array([0.4, 0.5, 0.2])
    assert (difference.first, difference.second, difference.question) == ("advmacer", "gaussian", METHOD)
    assert difference.difference.estimate == pytest.approx(paired.mean())
    half = 4.302652729749464 * paired.std(ddof=1) / 3**0.5
    assert difference.difference.models.low == pytest.approx(paired.mean() - half)
    assert (difference.difference.models.verdict, difference.images) == ("undecided", 3)


def test_only_images_that_all_seeds_share_are_compared():
    models = [
        trained_model("gaussian", 0.25, 0),
        trained_model("advmacer", 0.25, 0),
        trained_model("advmacer", 0.25, 1),
    ]
    certified = [
        classifier(models[0].id, [9.0, 0.1, 0.2, 0.3]),
        classifier(models[1].id, [0.2, 0.4, 0.6, 9.0], first=1),
        classifier(models[2].id, [9.0, 0.2, 0.4, 0.6]),
    ]
    (difference,) = answer_questions(small(certified, models=models))
    assert difference.images == 3
    assert difference.difference.estimate == pytest.approx(0.2)
    apart = [classifier(models[0].id, [0.1, 0.2]), classifier(models[1].id, [0.1, 0.2], first=2)]
    assert answer_questions(small(apart, models=models)) == ()


def test_the_baseline_is_the_first_model_or_the_one_that_the_study_names(made):
    assert {d.second for d in answer_questions(made) if d.question == METHOD} == {"gaussian"}
    named = replace(made, study=study(baseline="advmacer"))
    # advmacer_tuned against advmacer answers the question about the search already.
    methods = [d for d in answer_questions(named) if d.question == METHOD]
    assert {(d.first, d.second) for d in methods} == {("gaussian", "advmacer")}


def test_the_other_baseline_turns_the_sign(made):
    def of(results_, first, second):
        return [d.difference.models for d in answer_questions(results_) if (d.first, d.second) == (first, second)]

    there, back = (
        of(made, "advmacer", "gaussian"),
        of(replace(made, study=study(baseline="advmacer")), "gaussian", "advmacer"),
    )
    assert len(there) == len(back) == len(SIGMAS)
    for one, other in zip(there, back, strict=True):
        assert (one.estimate, one.low, one.high) == pytest.approx((-other.estimate, -other.high, -other.low))


def test_searched_settings_are_compared_with_the_same_method_as_set(made):
    answered = [d for d in answer_questions(made) if d.question == SEARCH]
    assert [(d.sigma, d.first, d.second) for d in answered] == [(s, "advmacer_tuned", "advmacer") for s in SIGMAS]


def test_settings_of_another_training_say_nothing_of_the_search(made):
    def longer(groups):
        return tuple(
            one.model_copy(update={"training": one.training.model_copy(update={"epochs": 9})}) for one in groups
        )

    study = made.study.model_copy(update={"search": longer(made.study.search)})
    answered = answer_questions(replace(made, study=study, searches=()))
    assert not [d for d in answered if d.question == SEARCH]
    assert "advmacer_tuned" in {d.first for d in answered if d.question == METHOD}


def test_a_label_with_an_entry_per_noise_level_is_compared_once(made):
    def split(groups):
        return tuple(group.model_copy(update={"sigma": (sigma,)}) for group in groups for sigma in SIGMAS)

    study = made.study.model_copy(update={"models": split(made.study.models), "search": split(made.study.search)})
    answered = [d for d in answer_questions(replace(made, study=study)) if d.question == SEARCH]
    assert [d.sigma for d in answered] == list(SIGMAS)


def test_uniform_ensembles_are_compared_with_the_mean_of_their_members(made):
    answered = [d for d in answer_questions(made) if d.question == AVERAGING]
    uniform = [record for record in made.ensembles if record.method == "uniform"]
    assert [d.first for d in answered] == [record.id for record in uniform]
    acr = {c.id: average_certified_radius(c.radius, c.correct) for c in made.certified}
    for difference, record in zip(answered, uniform, strict=True):
        members = np.mean([acr[member] for member in record.members])
        assert difference.difference.estimate == pytest.approx(acr[record.id] - members)


def test_the_best_member_is_chosen_on_validation_images_not_by_its_test_result():
    good, lucky = (
        trained_model("advmacer", 0.25, 0, noisy_accuracy=a, id=i) for a, i in ((0.9, "good"), (0.8, "lucky"))
    )
    pair = ensemble("advmacer x2", 0.25, ("good", "lucky"))
    certified = [
        classifier("good", [0.1, 0.2]),
        classifier("lucky", [0.5, 0.7]),
        classifier(pair.id, [0.3, 0.3], kind="ensemble"),
    ]
    answered = answer_questions(small(certified, models=(good, lucky), ensembles=(pair,)))
    (difference,) = [d for d in answered if d.question == BEST_MEMBER]
    assert difference.second == "good"
    assert difference.difference.estimate == pytest.approx(0.15)


def test_solved_weights_are_compared_with_uniform_ones_of_the_same_members_and_average(made):
    assert len([d for d in answer_questions(made) if d.question == WEIGHTS]) == 4
    members = made.ensembles[0].members
    logits = ensemble("advmacer x2", 0.25, members, method="esbrs_ratio", average="logits", weights=(0.6, 0.4))
    extended = replace(
        made,
        ensembles=(*made.ensembles, logits),
        certified=(*made.certified, classifier(logits.id, [0.1] * 60, kind="ensemble")),
    )
    assert len([d for d in answer_questions(extended) if d.question == WEIGHTS]) == 4


@pytest.mark.parametrize("method", ["mme", "consensus"])
def test_other_combinations_are_compared_with_the_uniform_average_of_the_same_members(made, method):
    assert not [d for d in answer_questions(made) if d.question == COMBINING]
    members = made.ensembles[0].members
    same = ensemble("advmacer x2", 0.25, members, method=method)
    logits = ensemble("advmacer x2", 0.25, members, method=method, average="logits")
    extended = replace(
        made,
        ensembles=(*made.ensembles, same, logits),
        certified=(*made.certified, *(classifier(one.id, [0.1] * 60, kind="ensemble") for one in (same, logits))),
    )
    (answered,) = [d for d in answer_questions(extended) if d.question == COMBINING]
    assert (answered.first, answered.second) == (same.id, made.ensembles[0].id)
    assert len([d for d in answer_questions(extended) if d.question == WEIGHTS]) == 4


def test_mixed_ensembles_are_compared_with_intra_model_ones_of_their_size(made):
    answered = [d for d in answer_questions(made) if d.question == MIXING]
    assert [(d.sigma, d.first_label, d.second_label) for d in answered] == [
        (sigma, "gaussian + advmacer", "advmacer ×2") for sigma in SIGMAS
    ]
    triple = ensemble("advmacer x3", 0.25, [*made.ensembles[0].members, "advmacer_tuned-s0.25-seed0"])
    extended = replace(
        made,
        ensembles=(*made.ensembles, triple),
        certified=(*made.certified, classifier(triple.id, [0.1] * 60, kind="ensemble")),
    )
    assert len([d for d in answer_questions(extended) if d.question == MIXING]) == 2


def test_the_spread_over_seeds_is_reported_beside_their_mean(made):
    acr = {c.id: average_certified_radius(c.radius, c.correct) for c in made.certified}
    averages = {(a.label, a.sigma): a for a in made.seed_averages}
    of = averages["advmacer", 0.5]
    seeds = [acr[f"advmacer-s0.5-seed{seed}"] for seed in (0, 1)]
    assert (of.seeds, of.lowest, of.highest) == (2, min(seeds), max(seeds))
    assert of.models.estimate == pytest.approx(np.mean(seeds))
    credits_ = np.array([c.credited_radius for c in made.models_at(0.5)["advmacer"]])
    acr = contrast(credits_.mean(0), [credits_])
    assert (of.models, of.procedures) == (acr.models, acr.procedures)
    assert (averages["gaussian", 0.5].seeds, averages["gaussian", 0.5].procedures) == (1, None)
