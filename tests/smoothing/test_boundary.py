"""Facts about attacks around certified radii: linear classifiers, whose radius is known, and what is said of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import ndtr
from torch import nn

from rspipe.records import BoundaryCheck
from rspipe.report.sections.attacks import attack_findings, attack_part, attack_table
from rspipe.smoothing.boundary import AttackSettings, attack_image, changed
from rspipe.smoothing.certificates import ABSTAIN
from rspipe.smoothing.classifiers import Classifier, HardClassifier, SoftEnsemble, classify
from tests import results_builder as build

SIGMA = 0.25
FAST = AttackSettings(steps=4, draws=16, n=400)


def linear(direction: list[float], offset: float) -> nn.Linear:
    """Two classes: the first where direction'x > offset."""
    network = nn.Linear(len(direction), 2)
    network.weight.data = torch.tensor([direction, [0.0] * len(direction)])
    network.bias.data = torch.tensor([-offset, 0.0])
    return network


def single(*, members: int = 1, average: str = "logits") -> Classifier:
    return Classifier(
        "one", tuple(range(members)), (1 / members,) * members, "logits" if average == "logits" else "probabilities"
    )


def test_a_linear_classifiers_prediction_changes_beyond_its_radius_and_not_before() -> None:
    """x is .2 from the hyperplane, which is the true radius of the smoothed classifier for any sigma."""
    network, image = linear([0.6, 0.8], 0.5), torch.tensor([0.5, 0.5])
    attacked = attack_image(
        [network], [network], single(), image, 0, distances=[0.1, 0.3], sigma=SIGMA, example=3, settings=FAST
    )
    assert ndtr(0.1 / SIGMA) > 0.65
    # 400 samples of probability Phi(-.4) = .34 and Phi(.4): PREDICT is wrong or abstains with probability below 1e-3.
    assert attacked.predictions.tolist() == [0, 1]
    np.testing.assert_allclose(attacked.distances, [0.1, 0.3], rtol=1e-5)


def test_at_the_true_radius_the_prediction_is_a_coin_and_abstains() -> None:
    network, image = linear([0.6, 0.8], 0.5), torch.tensor([0.5, 0.5])
    attacked = attack_image(
        [network], [network], single(), image, 0, distances=[0.2], sigma=SIGMA, example=3, settings=FAST
    )
    assert attacked.predictions.tolist() == [ABSTAIN]


def test_the_box_of_pixel_values_may_keep_an_attack_short() -> None:
    network, image = linear([1.0, 0.0], 0.5), torch.tensor([0.1, 0.5])
    attacked = attack_image(
        [network], [network], single(), 1 - image, 0, distances=[3.0], sigma=SIGMA, example=0, settings=FAST
    )
    # From .9 down to 0; the gradient has no other component.
    assert attacked.distances[0] == pytest.approx(0.9, rel=1e-5)


def test_an_attack_is_the_same_every_time_and_another_for_another_image() -> None:
    torch.manual_seed(0)
    network, image = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 3)), torch.tensor([0.5, 0.4])
    seen: list[torch.Tensor] = []
    network.register_forward_hook(lambda _module, given, _out: seen.append(given[0].detach().clone()))

    def inputs(example: int) -> list[torch.Tensor]:
        seen.clear()
        settings = AttackSettings(steps=1, draws=8, n=20)
        attack_image(
            [network],
            [network],
            single(),
            image,
            0,
            distances=[0.1, 0.1],
            sigma=1.0,
            example=example,
            settings=settings,
        )
        return list(seen)

    first, again, other = inputs(1), inputs(1), inputs(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    # Attack, prediction, attack, prediction: each with noise of its own.
    assert not torch.equal(first[0], first[2])
    assert not torch.equal(first[1], first[3])


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_the_network_that_is_attacked_and_the_one_that_predicts_are_the_certified_ensemble(average: str) -> None:
    torch.manual_seed(1)
    networks = [nn.Linear(4, 3) for _ in range(3)]
    classifier = Classifier("pair", (2, 0), (0.7, 0.3), "probabilities" if average == "probabilities" else "logits")
    x = torch.randn(200, 4)
    with torch.no_grad():
        logits = {position: network(x) for position, network in enumerate(networks)}
        (scores,) = classify([classifier], logits)
        assert torch.equal(HardClassifier(networks, classifier)(x).argmax(1), scores.classes)
        soft = SoftEnsemble(networks, classifier)(x)
    torch.testing.assert_close(soft.softmax(1), scores.probabilities)


def test_the_member_that_decides_a_max_margin_ensemble_predicts() -> None:
    torch.manual_seed(2)
    networks = [nn.Linear(4, 3) for _ in range(2)]
    classifier = Classifier("mme", (0, 1), (0.5, 0.5), combination="mme")
    x = torch.randn(50, 4)
    with torch.no_grad():
        (scores,) = classify([classifier], {position: network(x) for position, network in enumerate(networks)})
        assert torch.equal(HardClassifier(networks, classifier)(x).argmax(1), scores.classes)


def test_an_abstention_is_no_change() -> None:
    assert changed(np.array([0, 1, ABSTAIN]), 0).tolist() == [False, True, False]


CHECK = BoundaryCheck(
    classifier="a",
    name="advmacer, seed 0",
    sigma=0.25,
    key="k",
    images=40,
    steps=20,
    draws=64,
    n=1000,
    alpha=0.001,
    factors=(0.5, 1.0, 1.5, 2.0),
    same=(40, 36, 20, 10),
    abstained=(0, 4, 8, 10),
    changed=(0, 0, 12, 20),
    ever_changed=(0, 0, 12, 22),
    distance=(0.5, 1.0, 1.5, 1.9),
)


def test_nothing_changed_inside_and_half_of_it_beyond_is_said_with_the_chance_of_error() -> None:
    assert attack_findings([CHECK]) == [
        "advmacer, seed 0 at σ = 0.25: none of 80 predictions within the certified radius changed (each prediction is "
        "wrong with probability 0.001 at most, which makes 0.08 on average at most); half of the images or more "
        "changed within 2 radii: for them the certified radius is at least 0.50 of the true one."
    ]
    assert (CHECK.broken, CHECK.expected_broken) == (0, pytest.approx(0.08))


def test_a_change_inside_is_said_and_marked() -> None:
    broken = replace(CHECK, changed=(0, 3, 12, 15))
    assert "3 of 80 predictions within the certified radius changed" in attack_findings([broken])[0]
    column = attack_table([broken]).columns.index("changed")
    assert [row[column].tone for row in attack_table([broken]).rows] == ["", "bad", "", ""]


def test_a_classifier_that_withstands_all_distances_is_said_to() -> None:
    strong = replace(CHECK, ever_changed=(0, 0, 1, 2))
    assert "fewer than half of the images changed within 2 radii" in attack_findings([strong])[0]


def test_the_report_has_the_attacks_where_there_were_any() -> None:
    results = build.results()
    assert attack_part(results) is None
    found = attack_part(replace(results, attacks=(CHECK,)))
    assert found is not None
    assert len(found.table.rows) == 4
    assert "20 steps, 64 noise samples, n = 1,000" in found.note
