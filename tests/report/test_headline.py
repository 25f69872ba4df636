"""The message of a study: the table and the sentences of the first screen, for studies of every shape."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from rspipe.ensembles.spec import ensemble_name
from rspipe.report.caveats import caveats
from rspipe.report.differences import Group, with_holm
from rspipe.report.export import summary_markdown
from rspipe.report.headline import headline, headline_table
from rspipe.report.names import legend, short_name
from rspipe.report.questions import AVERAGING, QUESTIONS, answer_questions
from rspipe.report.results import Results
from rspipe.report.sections import budget
from rspipe.report.sections.accuracy import gain_sentence
from rspipe.report.sections.distribution import spreads
from rspipe.report.sections.results import choice_table
from rspipe.report.standings import entries, told_apart
from rspipe.smoothing.certificates import ABSTAIN, radius_cap
from rspipe.smoothing.derivation import CertifiedClassifier
from tests import results_builder as built


def test_the_truly_best_of_several_methods_is_seldom_called_lower_whichever_leads_on_the_images() -> None:
    results, repeats, rng, wrong = built.results(), 400, np.random.default_rng(0), 0
    examples = np.arange(60)
    for _ in range(repeats):
        image = rng.normal(0, 0.3, 60)
        groups = [
            Group.of_credits(
                [(examples, 1 + image + rng.normal(0, 0.05) + rng.normal(0, 0.2, 60)) for _ in range(5)],
                id_=f"{at}",
                label="",
            )
            for at in range(10)
        ]
        # All are alike: any of them is best, here the first.
        named = [replace(one, seeds=tuple(f"{one.id}/{seed}" for seed in range(5))) for one in groups]
        wrong += told_apart(results, named, sigma=0.25)[0]
    # Without a correction for nine comparisons it is about .11.
    assert wrong <= binom.ppf(0.999, repeats, 0.05)


def test_bold_are_the_largest_value_and_those_that_cannot_be_told_apart_from_it() -> None:
    results = built.results()
    message = headline(results)
    for sigma in built.SIGMAS:
        rows = message.at(sigma)
        assert rows[0].best_acr
        assert [row.entry.acr for row in rows] == sorted((row.entry.acr for row in rows), reverse=True)
        lower = told_apart(results, [one.group for one in entries(results, sigma)], sigma=sigma)
        assert [row.best_acr for row in rows] == [not below for below in lower]
    table = headline_table(message)
    column = table.columns.index("ACR ± 95 %")
    assert {row[column].tone for row in table.rows} == {"", "strong"}  # Not all are the best.


def test_each_row_has_the_mean_certified_accuracy_of_its_classifiers() -> None:
    message = headline(built.results())
    for row in message.rows:
        for radius, share in zip(message.radii, row.accuracy, strict=True):
            single = [np.mean(one.correct & (one.radius >= radius)) for one in row.entry.classifiers]
            assert share == pytest.approx(np.mean(single))


def test_methods_are_ranked_on_the_images_that_all_have() -> None:
    results = built.results()
    names = ("example", "label", "prediction", "radius", "n_a", "p_a_lower", "n", "samples", "stopped", "noise")

    def cut(one: CertifiedClassifier) -> CertifiedClassifier:
        return replace(one, **{name: getattr(one, name)[:20] for name in names})

    # The first images are hard, and the better method is certified there alone.
    hard = [
        replace(one, radius=one.radius * np.where(one.example < 20, 0.1, 1.0))
        for one in results.certified
        if one.kind == "model" and not one.id.startswith("advmacer_tuned")
    ]
    later = tuple(cut(one) if one.id.startswith("advmacer") else one for one in hard)
    part = replace(_only(results, "advmacer", "gaussian"), certified=later)
    (first, second), acr = entries(part, 0.25), {one.label: one.models.estimate for one in part.seed_averages}
    assert (first.name, second.name) == ("advmacer", "gaussian")
    assert acr["advmacer"] < acr["gaussian"]
    assert first.group.examples.size == second.group.examples.size == 20
    assert headline(part).sentences[0].startswith("advmacer has the largest ACR of 2 methods")


def test_what_is_drawn_and_said_of_gains_is_of_the_images_that_all_have() -> None:
    results = _only(built.results(), "advmacer", "gaussian", seeds=1)
    (like,) = [one for one in results.certified if one.id == "advmacer-s0.25-seed0"]
    radius = np.where(like.example < 20, like.radius, 0.0)
    # The same certificates on the images that both have; the baseline's others are hard.
    certified = (like.on(like.example[:20]), replace(like, id="gaussian-s0.25-seed0", radius=radius))
    part = replace(results, study=built.study(baseline="gaussian"), certified=certified)
    assert gain_sentence(part) == "Largest gain on gaussian: none at any radius, σ = 0.25."
    one, other = spreads(part, sigma=0.25)
    assert one.acr == other.acr
    assert replace(one, label="") == replace(other, label="")


def test_one_member_alone_is_no_best_ensemble() -> None:
    results = built.results()
    best = built.ensemble("advmacer x2", 0.25, ("advmacer-s0.25-seed0", "advmacer-s0.25-seed1"), method="auto")
    alone = replace(best, weights=(0.0, 1.0))
    model = results.certificates("advmacer-s0.25-seed1")
    assert model is not None
    own = replace(model, id=alone.id, kind="ensemble", radius=1.5 * model.radius)
    certified = (*results.certified, own)
    found = replace(results, ensembles=(*results.ensembles, alone), certified=certified)
    assert entries(found, 0.25)[0].name == "advmacer ×2 · auto = advmacer, seed 1"
    text = headline(found).sentences[1]
    assert "(1 of them one member alone)" in text
    assert "auto" not in text
    nothing = replace(results, ensembles=(alone,), certified=certified)
    assert "very ensemble has given all weight to one member" in headline(nothing).sentences[1]


def test_where_a_rule_ends_images_early_n_limits_nothing_and_a_constant_has_radii_of_the_grid() -> None:
    results = built.results()
    rule = {"name": "radius_grid", "grid": (0.1,)}
    certify = {"n0": built.N0, "n": built.N, "alpha": built.ALPHA, "rule": rule}
    certified = tuple(
        replace(one, rule="radius_grid", radius=np.where(one.radius > 0.1, 0.1, 0.0), n=one.n_a)
        for one in results.certified
    )
    found = replace(results, study=built.study(certify=certify), certified=certified)
    assert max(one.saturated for one in found.summaries) > 0.5
    assert not [text for text in caveats(found) if "saturated" in text]
    assert not [note for note in headline(found).notes if "nothing reaches the ACR" in note]
    assert budget.section(found) is None
    assert budget.section(results) is not None


def test_one_seed_is_said_of_the_level_that_has_one_and_advice_is_given_where_it_helps() -> None:
    (said,) = [text for text in caveats(built.results()) if text.startswith("One seed")]
    assert said.startswith("One seed is certified of gaussian at σ = 0.5: ")
    assert said.endswith("Other seeds failed, or are not certified yet.")
    single = _only(replace(built.results(), study=built.study(ensembles=())), "advmacer", seeds=1)
    groups = [one.model_copy(update={"seeds": (0,)}) for one in single.study.models]
    asked = replace(single, study=single.study.model_copy(update={"models": tuple(groups)}))
    (said,) = [text for text in caveats(asked) if text.startswith("One seed")]
    assert said.startswith("One seed is certified of advmacer: ")
    assert said.endswith("Give the study three seeds.")


def test_a_rule_without_an_acr_has_no_means_of_it_and_says_that_claims_are_not_judged() -> None:
    results = built.results()
    certify = {"n0": built.N0, "n": built.N, "alpha": built.ALPHA, "rule": {"name": "decide", "radii": (0.25,)}}
    claims = [{"first": "advmacer", "second": "gaussian", "source": "a paper"}]
    decided = replace(results, study=built.study(certify=certify, claims=claims))
    assert not choice_table(decided).rows
    assert "What the study claims or quotes of published ACRs is not judged." in caveats(decided)
    assert "mean ACR" not in summary_markdown(decided)


def _only(results: Results, *labels: str, seeds: int = 2) -> Results:
    models = tuple(model for model in results.models if model.label in labels and model.seed < seeds)
    return replace(results, models=models, ensembles=())


@pytest.mark.parametrize(
    ("results", "words"),
    [
        (replace(built.results(), certified=()), ["Nothing is certified"]),
        (
            _only(built.results(), "advmacer", seeds=1),
            ["advmacer has an ACR of", "No ensemble is certified", "one seed"],
        ),
        (
            replace(_only(built.results(), "advmacer", "gaussian"), study=built.study(ensembles=())),
            ["largest ACR of 2 methods", "The study has no ensembles", "2 seeds"],
        ),
        (built.results(), ["of 3 methods", "averages are above the mean of their members", "undecided"]),
    ],
)
def test_the_sentences_fit_studies_of_every_shape(results: Results, words: list[str]) -> None:
    text = " ".join(headline(results).sentences)
    for word in words:
        assert word in text
    assert "nan" not in text


def test_rows_are_at_most_as_many_as_a_screen_has_room_for_and_the_baseline_is_among_them() -> None:
    results = built.results()
    message = headline(results, most=8)
    assert len(message.rows) == 8
    assert message.left_out == 6
    for sigma in built.SIGMAS:
        assert results.baseline in [row.entry.name for row in message.at(sigma)]


def test_rule_decide_has_shares_at_its_radii_and_no_acr() -> None:
    study = built.study(certify={"n0": built.N0, "n": built.N, "rule": {"name": "decide", "radii": [0.25]}})
    message = headline(built.results(study=study))
    table = headline_table(message)
    assert "ACR ± 95 %" not in table.columns
    assert table.columns[-1] == "CA(0.25)"
    assert "certifies" in message.sentences[0]
    assert "no average certified radius" in message.sentences[-1]


def test_short_names_are_told_apart_and_explained() -> None:
    names = {
        "advmacer": "advmacer",
        "advmacer x2 (uniform)": "advmacer ×2",
        "advmacer x1 + smoothadv x1 (esbrs_paper)": "advmacer + smoothadv · EsbRs",
        "advmacer x1 + smoothadv x2 (uniform, logits)": "advmacer + smoothadv ×2 · logits",
        "advmacer seeds 0,2 (mme)": "advmacer seeds 0,2 · MME",
        "advmacer x2 (uniform) over 0.5, 0.25": "advmacer ×2 over 0.5, 0.25",
        ensemble_name("a x4", "consensus", "probabilities", consensus_size=2): "a ×4 · consensus",
        ensemble_name("a x4", "consensus", "probabilities", consensus_size=3): "a ×4 · consensus of 3",
    }
    assert {name: short_name(name) for name in names} == names
    assert len({*names.values()}) == len(names)
    phrases = " ".join(legend(names.values()))
    for word in ("×2", "EsbRs:", "logits:", "MME:", "cascade"):
        assert word in phrases
    assert legend(["advmacer"]) == ()


def test_it_is_said_where_an_answer_that_looks_at_no_image_has_the_larger_acr() -> None:
    results = built.results()
    said = "nothing reaches the ACR of always answering the most frequent class"
    assert not any(said in note for note in headline(results).notes)
    # At one noise level all images but a tenth are given up; each class has a tenth of the images.
    poor = tuple(
        replace(one, prediction=np.where(one.example % 10 == 3, one.prediction, ABSTAIN)) if one.sigma == 0.5 else one
        for one in results.certified
    )
    (note,) = (note for note in headline(replace(results, certified=poor)).notes if said in note)
    constant = 0.1 * radius_cap(sigma=0.5, n=built.N, alpha=built.ALPHA)
    assert note == f"At σ = 0.5 {said}, {constant:.3f}: read the certified accuracies"


def test_methods_are_counted_at_each_noise_level() -> None:
    results = built.results()
    models = tuple(one for one in results.models if (one.label, one.train_sigma) != ("gaussian", 0.5))
    assert (
        headline(replace(results, models=models))
        .sentences[0]
        .startswith(
            "advmacer_tuned has the largest ACR, 0.448 of 3 methods at σ = 0.25 and 0.896 of 2 methods at σ = 0.5:"
        )
    )
    assert " of 3 methods, 0.448 at σ = 0.25 and 0.896 at σ = 0.5:" in headline(results).sentences[0]


def test_what_is_judged_for_these_models_alone_is_counted_apart_and_with_holms_correction() -> None:
    results = built.results()
    sentences = headline(results).sentences
    comparisons = answer_questions(results)
    averages = with_holm([one for one in comparisons if one.question == AVERAGING])
    assert all(one.difference.procedures is None for one, *_ in averages)
    sure = sum(models and one.difference.estimate > 0 for one, _, models in averages)
    assert f"{sure} of {len(averages)} averages are above the mean of their members (these models)" in sentences[1]
    families = [with_holm([one for one in comparisons if one.question == question]) for question in QUESTIONS]
    answered = [row for family in families for row in family]
    open_ = [not (models if one.difference.procedures is None else again) for one, again, models in answered]
    assert f"{sum(open_)} of {len(open_)} comparisons are undecided" in sentences[2]
