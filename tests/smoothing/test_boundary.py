"""Facts about attacks around certified radii: linear classifiers, whose radius is known, and what is said of them."""

import numpy as np
import pytest
import torch
from scipy.special import ndtr
from torch import nn

from rspipe.smoothing.boundary import AttackSettings, attack_image, changed
from rspipe.smoothing.certificates import ABSTAIN
from rspipe.smoothing.classifiers import Classifier, classify
from rspipe.smoothing.ensemble import Ensemble, SoftEnsemble

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
        assert torch.equal(Ensemble.of(networks, classifier)(x).argmax(1), scores.classes)
        soft = SoftEnsemble(networks, classifier)(x)
    torch.testing.assert_close(soft.softmax(1), scores.probabilities)


def test_the_member_that_decides_a_max_margin_ensemble_predicts() -> None:
    torch.manual_seed(2)
    networks = [nn.Linear(4, 3) for _ in range(2)]
    classifier = Classifier("mme", (0, 1), (0.5, 0.5), combination="mme")
    x = torch.randn(50, 4)
    with torch.no_grad():
        (scores,) = classify([classifier], {position: network(x) for position, network in enumerate(networks)})
        assert torch.equal(Ensemble.of(networks, classifier)(x).argmax(1), scores.classes)


def test_an_abstention_is_no_change() -> None:
    assert changed(np.array([0, 1, ABSTAIN]), 0).tolist() == [False, True, False]
