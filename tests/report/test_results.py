"""Facts about looking up a study's results by id and by noise level."""

from dataclasses import replace

import numpy as np
import pytest

from rspipe.data.spec import MNISTData
from rspipe.report.caveats import caveats
from rspipe.report.differences import Group, compare
from rspipe.report.export import summary_markdown
from rspipe.report.headline import headline
from rspipe.report.questions import METHOD, answer_questions
from rspipe.report.sections.findings import answers
from rspipe.smoothing.inference import contrast, difference
from rspipe.smoothing.spec import CertifySpec
from tests import results_builder as built


@pytest.fixture(scope="module")
def made():
    return built.results()


def test_every_record_and_certificate_is_found_by_its_id_and_an_unknown_id_by_none(made):
    for record in made.records:
        certificates = made.certificates(record.id)
        assert certificates is None or certificates.id == record.id
    for model in made.models:
        assert made.model(model.id) is model
        assert made.model_label(model.id) == model.label
        assert made.model_name(model.id) == f"{model.label}, seed {model.seed}"
    assert (made.model("unknown"), made.certificates("unknown")) == (None, None)
    assert made.model_label("unknown") == made.model_name("unknown") == "unknown"


def test_noise_levels_are_those_of_the_study_and_of_certificates(made):
    assert made.sigmas == built.SIGMAS
    elsewhere = replace(made, certified=(replace(made.certified[0], sigma=0.1),))
    assert elsewhere.sigmas == (0.1, *built.SIGMAS)


def test_classifiers_of_a_noise_level_are_all_there_once_in_the_order_of_the_study(made):
    for sigma in built.SIGMAS:
        models = [c.id for alike in made.models_at(sigma).values() for c in alike]
        ensembles = [record.id for record, _ in made.ensembles_at(sigma)]
        assert [*models, *ensembles] == [s.id for s in made.summaries_at(sigma)]
        assert {*models, *ensembles} == {c.id for c in made.certified if c.sigma == sigma}


def test_members_are_certified_together_or_not_at_all(made):
    pair = made.ensembles[0]
    assert [c.id for c in made.certified_members(pair)] == list(pair.members)
    without = replace(made, certified=tuple(c for c in made.certified if c.id != pair.members[1]))
    assert without.certified_members(pair) == []
    unrecorded = replace(made, models=tuple(model for model in made.models if model.id != pair.members[1]))
    assert unrecorded.certified_members(pair) == []


def test_groups_are_named_as_in_a_study_file_and_say_how_many_seeds_they_have(made):
    groups = made.groups(0.5)
    assert {name: group.label for name, group in groups.items()} == {
        "gaussian": "gaussian (1 seed)",
        "advmacer": "advmacer",
        "advmacer_tuned": "advmacer_tuned",
        "advmacer x2 (uniform)": "advmacer ×2",
        "advmacer x2 (esbrs_ratio)": "advmacer ×2 · ratio",
        "gaussian x1 + advmacer x1 (uniform)": "gaussian + advmacer",
        "gaussian x1 + advmacer x1 (esbrs_ratio)": "gaussian + advmacer · ratio",
    }
    assert groups["advmacer"].credits.shape == (2, 60)


def test_a_group_is_of_the_images_that_all_its_classifiers_share():
    first = built.certified("a", "model", 0.5, skill=0.8, seed=0, images=30)
    second = built.certified("b", "model", 0.5, skill=0.8, seed=1, images=30, first=10)
    group = Group.of([first, second])
    assert group.examples.tolist() == list(range(10, 30))
    np.testing.assert_array_equal(group.credits, [first.credited_radius[10:], second.credited_radius[:20]])
    assert group.acr == pytest.approx(group.credits.mean())
    few = group.on(np.array([12, 15]))
    np.testing.assert_array_equal(few.credits, group.credits[:, [2, 5]])


def test_a_comparison_is_made_on_the_images_that_both_groups_share():
    groups = [
        Group.of([built.certified(name, "model", 0.5, skill=0.8, seed=seed, images=30, first=10 * seed)], label=name)
        for seed, name in enumerate("abcd")
    ]
    one = compare(groups[0], groups[2], sigma=0.5)
    assert one is not None
    assert (one.first_label, one.second_label, one.images) == ("a", "c", 10)
    assert one.difference.estimate == pytest.approx(one.first_acr - one.second_acr)
    assert one.first_acr == pytest.approx(groups[0].mean_credits[20:].mean())
    assert compare(groups[0], groups[3], sigma=0.5) is None


def test_two_labels_are_judged_by_their_seeds_and_anything_else_for_its_models_alone(made):
    groups = made.groups(0.25)
    a, b, ensemble = groups["advmacer"], groups["gaussian"], groups["advmacer x2 (uniform)"]
    assert a.seeds == ("advmacer-s0.25-seed0", "advmacer-s0.25-seed1")
    assert made.compare(a, b, sigma=0.25).difference == difference(a.credits, b.credits)
    assert made.compare(ensemble, b, sigma=0.25).difference == contrast(ensemble.mean_credits - b.mean_credits, ())
    # A model on both sides.
    part = replace(a, credits=a.credits[:1], seeds=a.seeds[:1])
    assert made.compare(a, part, sigma=0.25).difference.procedures is None


def test_the_same_models_certified_in_two_ways_are_paired_seed_by_seed(made):
    a = made.groups(0.25)["advmacer"]
    again = replace(a, credits=0.9 * a.credits[::-1], seeds=a.seeds[::-1])
    pairs = 0.1 * a.credits
    assert compare(a, again, sigma=0.25).difference.models.low == pytest.approx(contrast(pairs.mean(0), ()).models.low)
    assert compare(a, again, sigma=0.25).difference.procedures.se == pytest.approx(
        contrast(pairs.mean(0), [pairs]).procedures.se
    )


def test_the_first_images_of_a_test_set_are_no_sample_of_it(made):
    def shortened(classifier):
        names = ("example", "label", "prediction", "radius", "n_a", "p_a_lower", "n", "samples", "stopped", "noise")
        return replace(classifier, **{name: getattr(classifier, name)[:20] for name in names})

    mnist = made.study.model_copy(update={"data": MNISTData(name="mnist", folder="nowhere")})
    certified = tuple(shortened(c) if c.id.startswith("gaussian-s0.25") else c for c in made.certified)
    part = replace(made, study=mnist, certified=certified)
    groups = part.groups(0.25)
    one = part.compare(groups["advmacer"], groups["gaussian"], sigma=0.25)
    assert (one.images, one.difference.population, one.difference.models.se) == (20, 20, 0.0)
    assert part.compare(groups["advmacer"], groups["advmacer_tuned"], sigma=0.25).difference.population is None
    assert "what rests on 20 images is about these alone" in " ".join(caveats(part))
    assert "At σ = 0.25, on these 20 images alone, trained again, " in " ".join(answers(answer_questions(part))[METHOD])
    # An evenly spaced part is a sample, once it is whole; the digits are in random order.
    planned = mnist.model_copy(update={"certify": mnist.certify.model_copy(update={"images": 60})})
    assert replace(made, study=planned).population(60) is None
    assert replace(made, study=planned).population(59) == 59
    for choice, whole in (({"skip": 20}, None), ({"first": 60}, 60), ({"start": 60}, 60), ([1, 5, 9], 60)):
        asked = CertifySpec.model_validate({"images": choice})
        of_choice = replace(made, study=mnist.model_copy(update={"certify": asked}))
        assert of_choice.population(60) == whole
        # Of these alone their ACR is known, and no note speaks of others.
        assert all((one.acr.low == one.acr.high) == (whole is not None) for one in of_choice.summaries)
        notes = " ".join([*headline(of_choice).notes, *headline(of_choice).sentences, summary_markdown(of_choice)])
        assert ("other test images" in notes) == (whole is None)
        assert ("these test images alone" in notes) == (whole is not None)
    assert made.population(20) is None
    # All of the test set is asked for, and the run was cut off after the first 60.
    assert replace(made, study=mnist).population(60) is None
    begun = replace(made, study=mnist, images_to_certify=10_000)
    assert begun.population(60) == 60
    assert "At σ = 0.25, 60 of 10,000 images are certified: certification is not finished." in caveats(begun)
    assert begun.images_meant == "these test images alone"
    # One noise level is finished, the other has begun.
    half = replace(begun, images_to_certify=60)
    half = replace(half, certified=tuple(c.on(c.example[:20]) if c.sigma == 0.5 else c for c in half.certified))
    assert half.images_meant == "other test images (at σ = 0.5 on these alone)"
    # One classifier of the level is enough: all are compared on its images.
    first, *others = half.certified
    one = replace(half, certified=(first.on(first.example[:20]), *(c for c in others if c.sigma == first.sigma)))
    assert one.images_meant == "these test images alone"
