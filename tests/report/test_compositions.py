"""Facts about ensembles over all choices of seeds: what is averaged, which seeds are left out, what is not judged."""

from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest

from rspipe.ensembles.members import names_seeds
from rspipe.report.headline import headline
from rspipe.report.questions import AVERAGING, BEST_MEMBER, COMBINING, MIXING, WEIGHTS, answer_questions
from rspipe.report.sections.claims import judge_claims
from rspipe.report.sections.results import choice_table
from rspipe.report.sections.sizes import size_table
from rspipe.smoothing.jackknife import contrast_of_subsets
from tests.report.test_summaries import classifier, small
from tests.results_builder import ensemble, study, trained_model

IMAGES = 40
SEEDS = {"advmacer": 3, "gaussian": 2}
SINGLES = [(label, seed) for label, seeds in SEEDS.items() for seed in range(seeds)]
INTRA = [frozenset(pair) for pair in combinations([one for one in SINGLES if one[0] == "advmacer"], 2)]
MIXED = [frozenset(pair) for pair in product(*([one for one in SINGLES if one[0] == label] for label in SEEDS))]


def name(members):
    return "+".join(f"{label}{seed}" for label, seed in sorted(members))


def radii(what, extra=0.0):
    """Radii that depend on members and combination, the same at every call."""
    rng = np.random.default_rng([ord(letter) for letter in what])
    return 0.3 + extra + 0.2 * rng.random(IMAGES)


def made(*, methods=("uniform",), common_seeds=False, left_out=(), **changes):
    """Return results of 3 + 2 models and all pairs of advmacer with itself and with gaussian."""
    asked = {"training": {"common_seeds": common_seeds}}
    accuracy = {one: 0.9 - 0.01 * place for place, one in enumerate(SINGLES)}
    models = [
        trained_model(label, 0.25, seed, id=name([(label, seed)]), noisy_accuracy=accuracy[label, seed], spec=asked)
        for label, seed in SINGLES
    ]
    certified = [classifier(model.id, radii(model.id)) for model in models]
    records = []
    for members, method in product([*INTRA, *MIXED], methods):
        if (members, method) in left_out:
            continue
        text = " + ".join(f"{label} seed {seed}" for label, seed in sorted(members))
        first = {frozenset({("advmacer", 0), ("advmacer", 1)}): "advmacer x2"}
        record = ensemble(first.get(members, text), 0.25, [name([one]) for one in sorted(members)], method=method)
        records.append(replace(record, id=f"{name(members)} {method}"))
        certified.append(classifier(records[-1].id, radii(records[-1].id, 0.1), kind="ensemble"))
    return small(certified, models=models, ensembles=records, of=study(**changes))


def pairs(kind, method="uniform"):
    return {members: radii(f"{name(members)} {method}", 0.1) for members in kind}


def single(members):
    return radii(name([members]))


def jackknife(theta, groups):
    """Variance of a mean over images by leaving out seeds: theta maps a set of models to [image]."""
    everything, variance = frozenset(SINGLES), 0.0
    for label, seeds in groups.items():
        pseudo = [
            seeds * theta(everything).mean() - (seeds - 1) * theta(everything - {(label, seed)}).mean()
            for seed in range(seeds)
        ]
        variance += np.var(pseudo, ddof=1) / seeds
    return variance


def mean_over(values, models):
    return np.mean([credit for members, credit in values.items() if members <= models], axis=0)


def only(results, question, **where):
    answered = [one for one in answer_questions(results) if one.question == question]
    (one,) = [one for one in answered if all(text in getattr(one, place) for place, text in where.items())]
    return one


def check(comparison, theta, groups):
    values = theta(frozenset(SINGLES))
    judged = comparison.difference.procedures
    assert comparison.difference.estimate == pytest.approx(values.mean())
    assert judged.seed_variance == pytest.approx(jackknife(theta, groups))
    assert comparison.difference.seeds == tuple(groups.values())


def test_averaging_is_judged_over_all_pairs_by_leaving_out_each_seed():
    gains = {members: credit - np.mean([*map(single, members)], axis=0) for members, credit in pairs(INTRA).items()}
    one = only(made(), AVERAGING, first_label="advmacer ×2")
    check(one, lambda models: mean_over(gains, models), {"advmacer": 3})
    assert (one.first_label, one.second_label) == (
        "advmacer ×2", "the mean of its members"
    )  # fmt: skip


def test_the_best_member_is_that_of_each_pair_by_validation():
    """Accuracies fall with the seed, so that the first seed of each pair is the best."""
    gains = {members: credit - single(min(members)) for members, credit in pairs(INTRA).items()}
    check(
        only(made(), BEST_MEMBER, first_label="advmacer ×2"), lambda models: mean_over(gains, models), {"advmacer": 3}
    )


@pytest.mark.parametrize(("method", "question"), [("esbrs_ratio", WEIGHTS), ("mme", COMBINING)])
def test_other_combinations_are_judged_on_the_pairs_that_have_both(method, question):
    missing = INTRA[0]
    results = made(methods=("uniform", method), left_out=((missing, method),))
    plain = pairs(INTRA)
    gains = {members: credit - plain[members] for members, credit in pairs(INTRA, method).items() if members != missing}
    one = only(results, question, first_label="advmacer ×2")
    assert one.difference.estimate == pytest.approx(np.mean([*gains.values()]))
    # Of the two pairs left the seed that they share is in both.
    assert one.difference.procedures is None
    whole = only(made(methods=("uniform", method)), question, first_label="advmacer ×2")
    gains[missing] = pairs(INTRA, method)[missing] - plain[missing]
    check(whole, lambda models: mean_over(gains, models), {"advmacer": 3})


def test_mixing_is_judged_over_every_choice_of_seeds_of_both_labels():
    mixed, intra = pairs(MIXED), pairs(INTRA)
    one = only(made(), MIXING)
    check(one, lambda models: mean_over(mixed, models) - mean_over(intra, models), SEEDS)
    assert one.first_label == "advmacer + gaussian"


def test_an_ensemble_of_all_seeds_is_never_judged_as_a_procedure():
    results = made()
    two = tuple(model for model in results.models if (model.label, model.seed) != ("advmacer", 2))
    one = only(replace(results, models=two), AVERAGING, first_label="advmacer ×2")
    assert one.first_label == "advmacer ×2"
    assert one.difference.procedures is None
    assert one.difference.models.estimate == pytest.approx(one.difference.estimate)


def test_mixed_ensembles_of_labels_with_common_seeds_are_not_judged_as_procedures():
    results = made(common_seeds=True)
    assert only(results, MIXING).difference.procedures is None
    assert only(results, AVERAGING, first_label="gaussian").difference.procedures is None
    assert only(results, AVERAGING, first_label="advmacer ×2").difference.procedures is not None


def test_a_label_may_begin_like_the_word_for_seeds():
    assert not names_seeds("advmacer x1 + seedless x1")
    assert not names_seeds("seed x2")
    assert names_seeds("advmacer seeds 0,2 + gaussian seed 1")
    assert names_seeds("seedless seed 1 + advmacer seed 0")


def test_a_claim_about_an_ensemble_is_judged_over_all_choices_of_seeds():
    results = made(claims=[{"first": "advmacer x2 (uniform)", "second": "advmacer"}])
    (claim,) = judge_claims(results)
    singles = {frozenset({one}): single(one) for one in SINGLES if one[0] == "advmacer"}
    gain = lambda models: mean_over(pairs(INTRA), models) - mean_over(singles, models)  # noqa: E731
    check(claim.comparison, gain, {"advmacer": 3})


def test_an_ensemble_that_names_its_seeds_is_that_one_alone():
    groups = made().groups(0.25)
    (row,) = groups["advmacer seed 0 + advmacer seed 2 (uniform)"].credits
    assert row == pytest.approx(pairs(INTRA)[frozenset({("advmacer", 0), ("advmacer", 2)})])
    assert len(groups["advmacer x2 (uniform)"].credits) == 3


def test_tables_list_the_ensembles_of_the_first_seeds_and_averages_over_all_choices():
    results = made()
    listed = [summary.name for summary in results.listed if summary.kind == "ensemble"]
    # No mixed one here is of the first seeds by name.
    assert [name for name in listed if "gaussian" not in name] == ["advmacer ×2"]
    assert len(listed) == 7
    table = choice_table(results)
    intra, mixed = table.rows
    assert [cell.text for cell in intra[:3]] == ["0.25", "advmacer ×2", "3"]
    assert [cell.text for cell in mixed[:3]] == ["0.25", "advmacer + gaussian", "6"]
    acr = np.mean([*pairs(INTRA).values()])
    assert intra[3].value == pytest.approx(acr)
    judged = contrast_of_subsets(pairs(INTRA))
    assert intra[4].value == pytest.approx((judged.procedures.high - judged.procedures.low) / 2)
    two = [one for one in results.models if one.seed < 2]
    records = [one for one in results.ensembles if "2" not in one.id]
    (only_mixed,) = choice_table(replace(results, models=tuple(two), ensembles=tuple(records))).rows
    assert only_mixed[1].text == "advmacer + gaussian"


def test_a_claim_is_open_where_every_one_of_the_ensembles_is_one_member_alone():
    results = made(claims=[{"first": "advmacer x2 (uniform)", "second": "advmacer"}])

    def alone(count):
        changed = [record.id for record in results.ensembles if "gaussian" not in record.id][:count]
        records = [replace(one, weights=(0.999, 0.001)) if one.id in changed else one for one in results.ensembles]
        (claim,) = judge_claims(replace(results, ensembles=tuple(records)))
        return claim

    assert alone(3).reproduction == "one member alone"
    assert alone(2).reproduction != "one member alone"
    assert "2 of 3 are one member alone" in alone(2).comparison.first_label


def test_a_case_is_one_member_alone_where_every_choice_of_seeds_is():
    results = made(methods=("uniform", "auto"))
    intra = [record.id for record in results.ensembles if "gaussian" not in record.id and record.method == "auto"]

    def sentence(alone):
        records = [replace(one, weights=(0.0, 1.0)) if one.id in alone else one for one in results.ensembles]
        (text,) = [one for one in headline(replace(results, ensembles=tuple(records))).sentences if "olved" in one]
        return text

    assert "cases (1 of them one member alone)" in sentence(intra)
    assert all("one member alone" not in sentence([one]) for one in intra)


def test_the_number_of_members_is_judged_against_their_mean_and_as_many_of_the_best_method():
    table = size_table(made(), sigma=0.25)
    rows = {(row[0].text, row[1].text): row for row in table.rows}
    place = {column: at for at, column in enumerate(table.columns)}
    intra, mixed = rows["advmacer", "2"], rows["advmacer + gaussian", "2"]
    assert (intra[place["classifiers"]].text, mixed[place["classifiers"]].text) == ("3", "6")
    difference = only(made(), AVERAGING, first_label="advmacer ×2").difference.procedures
    assert intra[place["less its members' mean, these procedures [95 %]"]].value == pytest.approx(difference.estimate)
    assert mixed[place["less that, these procedures [95 %]"]].text != "not judged"
