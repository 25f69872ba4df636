"""Facts about weighted ensembles: averages against float64 arithmetic, one pass of shared noise, errors."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rspipe.ensembles import Classifier, classify, ensemble_counts, member_logits
from rspipe.errors import ModelError
from rspipe.smoothing import Stream, class_counts

Average = Literal["probabilities", "logits"]
SAMPLING: dict[str, Any] = {"sigma": 0.5, "seed": 3, "example": 4, "stream": Stream.ESTIMATION}
X = torch.tensor([0.2, -0.1, 0.3])
BOTH = pytest.mark.parametrize("average", ["probabilities", "logits"])


def networks(k: int = 3, *, classes: int = 4) -> list[nn.Linear]:
    """Linear members with different weights."""
    made = []
    for member in range(k):
        network = nn.Linear(3, classes)
        rng = np.random.default_rng(member)
        network.weight.data = torch.tensor(rng.normal(size=(classes, 3)), dtype=torch.float32)
        network.bias.data = torch.tensor(rng.normal(size=classes) / 4, dtype=torch.float32)
        made.append(network)
    return made


def logits(k: int, *, samples: int = 2000, classes: int = 5) -> list[Tensor]:
    rng = np.random.default_rng(0)
    return [torch.tensor(rng.normal(0, 3, (samples, classes)), dtype=torch.float32) for _ in range(k)]


def single(member: int) -> Classifier:
    return Classifier(f"model {member}", (member,), (1.0,))


def averaged(members: Sequence[Tensor], weights: Sequence[float], average: str) -> np.ndarray[Any, Any]:
    """The weighted average in float64 NumPy."""
    values = np.stack([member.numpy().astype(np.float64) for member in members])
    if average == "probabilities":
        values = np.exp(values - values.max(-1, keepdims=True))
        values = values / values.sum(-1, keepdims=True)
    return np.einsum("k,ksc->sc", np.asarray(weights), values)


@BOTH
@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.7, 0.2, 0.1), (0.0, 1.0), (0.25, 0.25, 0.25, 0.25)])
def test_an_ensemble_returns_the_class_of_the_largest_weighted_average(
    average: Average, weights: tuple[float, ...]
) -> None:
    members = logits(len(weights))
    score = averaged(members, weights, average)
    first, second = np.sort(score, axis=1)[:, :-3:-1].T
    # float32 sums of a few terms below 16 are right to 1e-5; nearer ties may fall either way.
    clear = first - second > 1e-4
    assert clear.mean() > 0.99
    got = classify([Classifier("e", tuple(range(len(weights))), weights, average)], members)[0].numpy()
    assert np.array_equal(got[clear], score.argmax(1)[clear])


def test_averages_of_probabilities_and_of_logits_are_different_classifiers() -> None:
    # One member is very sure of class 0; two are moderately sure of class 1.
    members = [torch.tensor([[20.0, 0.0]]), torch.tensor([[0.0, 3.0]]), torch.tensor([[0.0, 3.0]])]
    both = [Classifier(a, (0, 1, 2), (1 / 3, 1 / 3, 1 / 3), a) for a in ("probabilities", "logits")]
    assert classify(both, members).tolist() == [[1], [0]]


def test_the_weights_decide() -> None:
    members = [torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])]
    either = [Classifier("first", (0, 1), (0.6, 0.4)), Classifier("second", (0, 1), (0.4, 0.6))]
    assert classify(either, members).tolist() == [[0], [1]]


def test_weights_belong_to_members_by_position() -> None:
    members = [torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 1.0]])]
    assert classify([Classifier("e", (2, 0), (0.6, 0.4))], members).tolist() == [[1]]


@BOTH
@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0)])
def test_an_ensemble_with_all_its_weight_on_one_member_is_that_member(
    average: Average, weights: tuple[float, float]
) -> None:
    members = logits(2)
    chosen = weights.index(1.0)
    both = classify([Classifier("e", (0, 1), weights, average), single(chosen)], members)
    assert torch.equal(both[0], both[1])


@BOTH
def test_an_ensemble_of_copies_is_the_member(average: Average) -> None:
    (member,) = logits(1)
    both = classify([Classifier("e", (0, 1), (0.5, 0.5), average), single(0)], [member, member])
    assert torch.equal(both[0], both[1])


@BOTH
def test_ties_go_to_the_lowest_class(average: Average) -> None:
    members = [torch.tensor([[0.0, 1.0, 1.0]]), torch.tensor([[0.0, 1.0, 1.0]])]
    assert classify([Classifier("e", (0, 1), (0.5, 0.5), average)], members).tolist() == [[1]]


@BOTH
def test_a_result_does_not_depend_on_what_is_evaluated_beside_it(average: Average) -> None:
    members = logits(4)
    ensemble = Classifier("e", (1, 3), (0.3, 0.7), average)
    alone = classify([ensemble], members)[0]
    others = [single(0), Classifier("all", (0, 1, 2, 3), (0.25,) * 4, "probabilities"), ensemble, single(3)]
    assert torch.equal(classify(others, members)[2], alone)


@pytest.mark.parametrize(
    ("members", "weights", "message"),
    [
        ((0, 1), (1.0,), "mix has 2 members but 1 weights"),
        ((0,), (0.5, 0.5), "mix has 1 members but 2 weights"),
        ((0, 1), (float("nan"), 1.0), "non-negative with sum 1"),
        ((0, 1), (1.0, float("nan")), "non-negative with sum 1"),
        ((0, 1), (float("inf"), 0.0), "non-negative with sum 1"),
        ((0, 1), (1.5, -0.5), "non-negative with sum 1"),
        ((0, 1), (0.5, 0.4), "non-negative with sum 1"),
        ((0, 1), (0.0, 0.0), "non-negative with sum 1"),
        ((), (), "non-negative with sum 1"),
    ],
)
def test_weights_off_the_simplex_are_refused(
    members: tuple[int, ...], weights: tuple[float, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Classifier("mix", members, weights)


def test_weights_that_sum_to_one_but_for_rounding_are_accepted() -> None:
    Classifier("mix", tuple(range(10)), (0.1,) * 10)


def test_single_models_are_counted_as_they_are_alone() -> None:
    members = networks()
    together = ensemble_counts(members, [single(2), single(0)], X, n=1050, block_size=500, **SAMPLING)
    alone = [class_counts(members[m], X, n=1050, block_size=500, **SAMPLING) for m in (2, 0)]
    assert np.array_equal(together, alone)


@BOTH
def test_an_ensemble_is_counted_as_one_network_that_averages_its_members(average: Average) -> None:
    members, weights = networks(), (0.5, 0.3, 0.2)

    def whole(batch: Tensor) -> Tensor:
        outs = [member(batch) for member in members]
        return torch.from_numpy(averaged(outs, weights, average))

    n = 1050
    counted = ensemble_counts(
        members, [Classifier("e", (0, 1, 2), weights, average)], X, n=n, block_size=500, **SAMPLING
    )
    expected = class_counts(whole, X, n=n, block_size=500, **SAMPLING)
    assert counted.sum() == n
    assert counted[0].tolist() == expected.tolist()


def test_every_network_runs_once_per_block_on_one_draw_of_noise() -> None:
    seen: list[tuple[int, Tensor]] = []

    class Recording(nn.Module):
        def __init__(self, number: int, network: nn.Module) -> None:
            super().__init__()
            self.number, self.network = number, network

        def forward(self, batch: Tensor) -> Tensor:
            seen.append((self.number, batch.clone()))
            return self.network(batch)

    members = [Recording(number, network) for number, network in enumerate(networks(2))]
    classifiers = [single(0), single(1), Classifier("e", (0, 1), (0.5, 0.5)), Classifier("f", (1, 0), (0.9, 0.1))]
    ensemble_counts(members, classifiers, X, n=250, block_size=100, **SAMPLING)
    assert [number for number, _ in seen] == [0, 1] * 3
    assert all(torch.equal(seen[i][1], seen[i + 1][1]) for i in (0, 2, 4))
    assert not torch.equal(seen[0][1], seen[2][1])


def test_counts_of_a_classifier_do_not_depend_on_the_others_in_the_pass() -> None:
    members = networks()
    ensemble = Classifier("e", (1, 2), (0.3, 0.7), "probabilities")
    alone = ensemble_counts(members, [ensemble], X, n=600, block_size=200, **SAMPLING)[0]
    beside = ensemble_counts(members, [single(0), ensemble, single(2)], X, n=600, block_size=200, **SAMPLING)[1]
    assert np.array_equal(alone, beside)


def test_every_class_has_a_column_and_every_sample_counts_once_per_classifier() -> None:
    sure = nn.Linear(3, 4)
    sure.weight.data.zero_()
    sure.bias.data = torch.tensor([0.0, 0.0, 0.0, 1.0])
    for n in (1, 100, 101):
        counted = ensemble_counts([sure], [single(0), single(0)], X, n=n, block_size=100, **SAMPLING)
        assert counted.tolist() == [[0, 0, 0, n]] * 2


def test_members_in_train_mode_run_in_eval_mode_and_get_their_modes_back() -> None:
    member = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    call: dict[str, Any] = {"n": 300, "block_size": 100, **SAMPLING}
    in_eval = ensemble_counts([member.eval()], [single(0)], X, **call)
    in_train = ensemble_counts([member.train()], [single(0)], X, **call)
    assert np.array_equal(in_eval, in_train)
    assert all(module.training for module in member.modules())


def test_a_member_that_returns_nan_is_named() -> None:
    members = networks()
    members[1].bias.data[2] = float("nan")
    with pytest.raises(ModelError, match="member 1 returned NaN or infinite logits"):
        ensemble_counts(members, [single(0)], X, n=10, block_size=10, **SAMPLING)


def test_a_member_that_returns_a_wrong_shape_is_named() -> None:
    members: list[nn.Module] = [*networks(2), nn.Linear(3, 1)]
    with pytest.raises(ModelError, match=r"member 2 returned shape \[10, 1\]"):
        member_logits(members, torch.zeros(10, 3))


def test_members_must_agree_on_the_number_of_classes() -> None:
    with pytest.raises(ValueError, match=r"members disagree on the number of classes: \[4, 5\]"):
        member_logits([*networks(1), *networks(1, classes=5)], torch.zeros(10, 3))


def test_member_logits_are_the_networks_outputs_in_order() -> None:
    members, batch = networks(), torch.ones(2, 3)
    for got, member in zip(member_logits(members, batch), members, strict=True):
        assert torch.equal(got, member(batch).detach())
