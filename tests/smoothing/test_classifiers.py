"""Facts about ensembles: averages against float64 arithmetic, MME and consensus by hand, memory limits, errors."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rspipe.errors import ModelError
from rspipe.networks.modes import evaluating
from rspipe.smoothing.classifiers import COMBINATIONS, BatchLimit, Classifier, Scores, classify, member_logits

Average = Literal["probabilities", "logits"]
BOTH = pytest.mark.parametrize("average", ["probabilities", "logits"])
EPSILON = float(np.finfo(np.float32).eps)


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


def logits(k: int, *, samples: int = 2000, classes: int = 5) -> dict[int, Tensor]:
    rng = np.random.default_rng(0)
    return {m: torch.tensor(rng.normal(0, 3, (samples, classes)), dtype=torch.float32) for m in range(k)}


def by_position(*rows: Sequence[float]) -> dict[int, Tensor]:
    """Logits of members at one sample."""
    return {member: torch.tensor([row]) for member, row in enumerate(rows)}


def single(member: int) -> Classifier:
    return Classifier(f"model {member}", (member,), (1.0,))


def uniform(k: int) -> tuple[float, ...]:
    return (1 / k,) * k


def mme(*members: int, weights: tuple[float, ...] | None = None) -> Classifier:
    return Classifier("mme", members, weights or uniform(len(members)), combination="mme")


def consensus(*members: int, consensus_size: int = 2, average: Average = "logits") -> Classifier:
    return Classifier("consensus", members, uniform(len(members)), average, "consensus", consensus_size)


EVERY_KIND = [
    single(1),
    Classifier("logits", (0, 1, 3), (0.5, 0.2, 0.3), "logits"),
    Classifier("probabilities", (3, 1), (0.3, 0.7), "probabilities"),
    mme(2, 0, 3),
    consensus(0, 3, 1),
    consensus(2, 1, 0, 3, consensus_size=3, average="probabilities"),
]


def classes(classifiers: Sequence[Classifier], members: dict[int, Tensor]) -> list[list[int]]:
    return [scores.classes.tolist() for scores in classify(classifiers, members)]


def averaged(members: dict[int, Tensor], weights: Sequence[float], average: str) -> np.ndarray[Any, Any]:
    """The weighted average in float64 NumPy."""
    values = np.stack([member.numpy().astype(np.float64) for member in members.values()])
    if average == "probabilities":
        values = np.exp(values - values.max(-1, keepdims=True))
        values = values / values.sum(-1, keepdims=True)
    return np.einsum("k,ksc->sc", np.asarray(weights), values)


# Averages.


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
    (got,) = classify([Classifier("e", tuple(range(len(weights))), weights, average)], members)
    assert np.array_equal(got.classes.numpy()[clear], score.argmax(1)[clear])


@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.7, 0.2, 0.1)])
def test_probabilities_are_the_average_ones_or_those_of_the_average_logits(weights: tuple[float, ...]) -> None:
    members, positions = logits(len(weights)), tuple(range(len(weights)))
    of_probabilities, of_logits = classify(
        [Classifier("p", positions, weights, "probabilities"), Classifier("l", positions, weights, "logits")], members
    )
    # Softmax in float32 of logits below 16, which carry an error of a few units of 2^-20.
    np.testing.assert_allclose(of_probabilities.probabilities, averaged(members, weights, "probabilities"), atol=1e-5)
    score = np.exp(averaged(members, weights, "logits"))
    np.testing.assert_allclose(of_logits.probabilities, score / score.sum(1, keepdims=True), atol=1e-5)


def test_averages_of_probabilities_and_of_logits_are_different_classifiers() -> None:
    # One member is very sure of class 0; two are moderately sure of class 1.
    members = by_position([20.0, 0.0], [0.0, 3.0], [0.0, 3.0])
    both = [Classifier(a, (0, 1, 2), uniform(3), a) for a in ("probabilities", "logits")]
    assert classes(both, members) == [[1], [0]]


def test_the_weights_decide() -> None:
    members = by_position([1.0, 0.0], [0.0, 1.0])
    either = [Classifier("first", (0, 1), (0.6, 0.4)), Classifier("second", (0, 1), (0.4, 0.6))]
    assert classes(either, members) == [[0], [1]]


def test_weights_belong_to_members_by_position() -> None:
    members = by_position([1.0, 0.0], [0.0, 0.0], [0.0, 1.0])
    assert classes([Classifier("e", (2, 0), (0.6, 0.4))], members) == [[1]]


def assert_same(first: Scores, second: Scores) -> None:
    """Bit for bit."""
    assert torch.equal(first.classes, second.classes)
    assert torch.equal(first.probabilities, second.probabilities)


@BOTH
@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0)])
def test_an_ensemble_with_all_its_weight_on_one_member_is_that_member(
    average: Average, weights: tuple[float, float]
) -> None:
    chosen = weights.index(1.0)
    assert_same(*classify([Classifier("e", (0, 1), weights, average), single(chosen)], logits(2)))


@BOTH
def test_an_ensemble_of_copies_is_the_member(average: Average) -> None:
    (member,) = logits(1).values()
    assert_same(*classify([Classifier("e", (0, 1), (0.5, 0.5), average), single(0)], {0: member, 1: member}))


@BOTH
def test_ties_go_to_the_lowest_class(average: Average) -> None:
    members = by_position([0.0, 1.0, 1.0], [0.0, 1.0, 1.0])
    assert classes([Classifier("e", (0, 1), (0.5, 0.5), average), mme(0, 1), consensus(0, 1, 0)], members) == [[1]] * 3


# MME.


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        # The second member's probabilities lie furthest apart.
        (([1.0, 0.0, 0.0], [0.0, 0.0, 5.0], [0.0, 2.0, 0.0]), 2),
        # The margin decides, not the largest probability: .62 over .38 against .60 over .20.
        (([2.0, -9.0, -9.0, 1.5], [-9.0, 2.0, 0.9, 0.9]), 1),
        # Margins are of probabilities: the second member's logits lie further apart, by 2.1 against 2.
        (([2.0, 0.0, -9.0, -9.0], [0.0, 2.1, 0.0, 0.0]), 0),
        # A single sure member overrules all others, and a majority.
        (([1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.5]), 1),
    ],
)
def test_mme_returns_the_class_of_the_member_with_the_widest_margin(
    members: tuple[list[float], ...], expected: int
) -> None:
    (scores,) = classify([mme(*range(len(members)))], by_position(*members))
    assert scores.classes.tolist() == [expected]
    chosen = [scores for scores in members if scores.index(max(scores)) == expected][-1]
    # Both are float32 softmaxes, each right to a few roundings.
    torch.testing.assert_close(scores.probabilities, torch.tensor([chosen]).softmax(1), rtol=1e-6, atol=1e-7)


def test_mme_decides_sample_by_sample() -> None:
    members = {0: torch.tensor([[3.0, 0.0], [0.0, 1.0]]), 1: torch.tensor([[0.0, 1.0], [3.0, 0.0]])}
    assert classes([mme(0, 1)], members) == [[0, 0]]


@pytest.mark.parametrize(("order", "expected"), [((0, 1, 2), 0), ((1, 0, 2), 1), ((2, 0, 1), 2)])
def test_of_equal_margins_the_first_members_counts(order: tuple[int, ...], expected: int) -> None:
    members = by_position([2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 2.0])
    assert classes([mme(*order)], members) == [[expected]]


def test_weights_do_not_matter_to_mme() -> None:
    members = logits(3)
    assert_same(*classify([mme(0, 1, 2), mme(0, 1, 2, weights=(0.0, 0.0, 1.0))], members))


def test_mme_is_the_margin_rule_in_float64() -> None:
    members = logits(4)
    score = np.stack([averaged({m: members[m]}, [1.0], "probabilities") for m in range(4)])
    top = np.sort(score, axis=2)
    margins = top[..., -1] - top[..., -2]
    nearest = np.sort(margins, axis=0)
    # float32 probabilities are right to a few 1e-7; nearer ties may fall either way.
    clear = nearest[-1] - nearest[-2] > 1e-6
    assert clear.mean() > 0.99
    expected = score.argmax(2)[margins.argmax(0), np.arange(score.shape[1])]
    (scores,) = classify([mme(0, 1, 2, 3)], members)
    assert np.array_equal(scores.classes.numpy()[clear], expected[clear])


# Consensus.


@BOTH
def test_where_the_first_members_agree_they_decide_against_the_average(average: Average) -> None:
    members = by_position([0.4, 0.0, 0.0], [0.4, 0.0, 0.0], [0.0, 0.0, 9.0])
    average_alone = Classifier("e", (0, 1, 2), uniform(3), average)
    assert classes([consensus(0, 1, 2, average=average), average_alone], members) == [[0], [2]]


@BOTH
def test_where_the_first_members_disagree_the_average_decides(average: Average) -> None:
    members = by_position([0.4, 0.0, 0.0], [0.0, 0.4, 0.0], [0.0, 0.0, 9.0])
    assert classes([consensus(0, 1, 2, average=average)], members) == [[2]]


def test_who_is_asked_first_is_a_matter_of_the_order_of_members() -> None:
    members = by_position([0.4, 0.0, 0.0], [0.0, 0.0, 9.0], [0.4, 0.0, 0.0])
    assert classes([consensus(0, 1, 2), consensus(0, 2, 1)], members) == [[2], [0]]


@pytest.mark.parametrize(("size", "expected"), [(2, 0), (3, 1)])
def test_all_of_the_first_members_have_to_agree(size: int, expected: int) -> None:
    members = by_position([0.4, 0.0], [0.4, 0.0], [0.0, 0.4], [0.0, 9.0])
    assert classes([consensus(0, 1, 2, 3, consensus_size=size)], members) == [[expected]]


@BOTH
def test_consensus_is_agreement_or_else_the_average_everywhere(average: Average) -> None:
    members = logits(4)
    agreed, whole, *first = classify(
        [
            consensus(0, 1, 2, 3, average=average),
            Classifier("e", (0, 1, 2, 3), uniform(4), average),
            *map(single, (0, 1)),
        ],
        members,
    )
    agree = first[0].classes == first[1].classes
    assert 0 < agree.float().mean() < 1
    assert torch.equal(agreed.classes[agree], first[0].classes[agree])
    assert torch.equal(agreed.classes[~agree], whole.classes[~agree])
    # Agreement has no probabilities of its own.
    assert torch.equal(agreed.probabilities, whole.probabilities)


def test_a_study_names_combinations_as_the_classifier_does() -> None:
    assert COMBINATIONS == {"mme": "mme", "consensus": "consensus"}


# All kinds.


@pytest.mark.parametrize("which", range(len(EVERY_KIND)))
def test_probabilities_sum_to_one_and_their_largest_is_the_class(which: int) -> None:
    (scores,) = classify([EVERY_KIND[which]], logits(4))
    sums = scores.probabilities.double().sum(1)
    # Five numbers, each rounded a few times, from weights whose sum is rounded too.
    assert (sums - 1).abs().max() < 10 * EPSILON
    assert (scores.classes.dtype, scores.classes.shape, scores.probabilities.shape) == (torch.int64, (2000,), (2000, 5))
    if EVERY_KIND[which].combination != "consensus":
        # Averaged logits may tie in their probabilities.
        largest = scores.probabilities.gather(1, scores.classes[:, None])[:, 0]
        assert torch.equal(largest, scores.probabilities.max(1).values)


@pytest.mark.parametrize("which", range(len(EVERY_KIND)))
def test_a_result_does_not_depend_on_what_is_evaluated_beside_it(which: int) -> None:
    members, one = logits(4), EVERY_KIND[which]
    needed = {member: members[member] for member in sorted(set(one.members))}
    (alone,) = classify([one], needed)
    for others in (EVERY_KIND, EVERY_KIND[::-1], [*EVERY_KIND, one]):
        assert_same(classify(others, members)[others.index(one)], alone)


@pytest.mark.parametrize("which", range(len(EVERY_KIND)))
@pytest.mark.parametrize("piece", [slice(0, 1), slice(3, 20), slice(777, 1313)])
def test_a_sample_does_not_depend_on_the_others_of_its_batch(which: int, piece: slice) -> None:
    members = logits(4)
    (whole,) = classify([EVERY_KIND[which]], members)
    (part,) = classify([EVERY_KIND[which]], {member: out[piece] for member, out in members.items()})
    assert_same(part, Scores(whole.classes[piece], whole.probabilities[piece]))


def test_members_logits_stay_as_they_are() -> None:
    members = logits(4)
    before = {member: out.clone() for member, out in members.items()}
    classify(EVERY_KIND, members)
    assert all(torch.equal(members[member], before[member]) for member in members)


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


@pytest.mark.parametrize("size", [-1, 0, 1, 3, 4])
def test_a_consensus_asks_two_members_at_least_and_not_all(size: int) -> None:
    with pytest.raises(ValueError, match=rf"at least 2 and less than its 3 members, got {size}"):
        consensus(0, 1, 2, consensus_size=size)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"average": "logit"}, "unknown average 'logit'; did you mean 'logits'"),
        ({"combination": "concensus"}, "unknown combination 'concensus'; did you mean 'consensus'"),
    ],
    ids=str,
)
def test_what_is_no_classifier_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Classifier("x", **{"members": (0, 1), "weights": (0.5, 0.5), **changes})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_classes_are_exact_whatever_the_precision_of_logits(dtype: torch.dtype) -> None:
    logits = 10 * torch.eye(2100, dtype=dtype)
    for one in (Classifier("x", (0,), (1.0,)), Classifier("x", (0, 1), (0.5, 0.5), "probabilities")):
        (scores,) = classify([one], {0: logits, 1: logits})
        assert torch.equal(scores.classes, torch.arange(2100))


# Members.


class Writing(nn.Module):
    """Standardizes its input where that lies."""

    def forward(self, batch: Tensor) -> Tensor:
        batch -= 0.5
        return batch[:, :2]


def test_a_member_that_writes_into_what_others_see_is_refused() -> None:
    batch, plain = torch.ones(4, 3), torch.nn.Identity()
    for members in ([Writing(), plain], [plain, Writing()]):
        with (
            torch.no_grad(),
            pytest.raises(ModelError, match=r"member [01] writes into its input, which others"),
        ):
            member_logits(members, batch.clone(), classes=None)
    assert member_logits([Writing()], batch)[0].tolist() == [[0.5, 0.5]] * 4
    with torch.inference_mode():
        assert member_logits([Writing()], torch.ones(4, 3))[0].tolist() == [[0.5, 0.5]] * 4


def test_a_member_may_use_the_memory_of_its_output_again() -> None:
    memory = torch.zeros(4, 2)

    def member(batch: Tensor) -> Tensor:
        return memory[: len(batch)].copy_(batch)

    first, second = torch.eye(2).repeat(2, 1), torch.zeros(4, 2)
    kept = [BatchLimit().run(member, batch) for batch in (first, second)]
    limit = BatchLimit()
    limit.size = 1
    assert torch.equal(kept[0], first)
    assert torch.equal(limit.run(member, first), first)


def test_member_logits_are_the_networks_outputs_by_position() -> None:
    members, batch = networks(), torch.ones(2, 3)
    with evaluating(*members):
        outputs = member_logits(members, batch)
    assert list(outputs) == [0, 1, 2]
    for position, member in enumerate(members):
        assert torch.equal(outputs[position], member(batch).detach())


def test_only_needed_members_run() -> None:
    ran: list[int] = []

    class Recording(nn.Module):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

        def forward(self, batch: Tensor) -> Tensor:
            ran.append(self.number)
            return torch.zeros(len(batch), 2)

    outputs = member_logits([Recording(number) for number in range(4)], torch.zeros(5, 3), needed=[1, 3])
    assert ran == list(outputs) == [1, 3]


def test_a_member_that_returns_nan_is_named() -> None:
    members = networks()
    members[1].bias.data[2] = float("nan")
    with pytest.raises(ModelError, match=r"member 1 returned NaN or \+inf as a logit"):
        member_logits(members, torch.zeros(10, 3))


def test_a_member_that_returns_a_wrong_shape_is_named() -> None:
    members: list[nn.Module] = [*networks(2), nn.Linear(3, 1)]
    with pytest.raises(ModelError, match=r"member 2 returned shape \[10, 1\] for 10 inputs; expected \[10, class\]"):
        member_logits(members, torch.zeros(10, 3))


def test_members_must_know_the_same_number_of_classes() -> None:
    with pytest.raises(ModelError, match="member 1 knows 5 classes but the data have 4; give it the data's classes"):
        member_logits([*networks(1), *networks(1, classes=5)], torch.zeros(10, 3))


def test_members_must_know_the_classes_of_the_data() -> None:
    with pytest.raises(ModelError, match="member 0 knows 4 classes but the data have 10; give it the data's classes"):
        member_logits(networks(1), torch.zeros(10, 3), classes=10)


# Memory.


def real_allocation() -> None:
    # More than the address space.
    torch.empty(2**47)


def raising(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


class Small(nn.Module):
    """Runs out of memory beyond some samples at once; each sample's logits are its own."""

    def __init__(self, most: int, fail: Callable[[], None]) -> None:
        super().__init__()
        self.most, self.fail = most, fail
        self.tried: list[int] = []

    def forward(self, batch: Tensor) -> Tensor:
        self.tried.append(len(batch))
        if len(batch) > self.most:
            self.fail()
        return torch.stack([batch[:, 0] * 2, batch[:, 1] - batch[:, 2]], dim=1)


OUT_OF_MEMORY = pytest.mark.parametrize(
    "fail",
    [
        raising(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")),
        raising(RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes.")),
        raising(MemoryError()),
        real_allocation,
    ],
    ids=["CUDA", "CPU of Windows", "Python", "CPU"],
)


@OUT_OF_MEMORY
@pytest.mark.parametrize("most", [1, 2, 3, 7, 50, 99, 100])
def test_a_batch_that_does_not_fit_runs_in_pieces_with_the_same_logits(most: int, fail: Callable[[], None]) -> None:
    batch = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    network, limit = Small(most, fail), BatchLimit()
    assert torch.equal(limit.run(network, batch), Small(100, fail)(batch))
    assert max(network.tried) == 100
    failed = [size for size in network.tried if size > most]
    # Halved, rounded up, until it fits.
    assert all(after == -(-before // 2) for before, after in pairwise(failed))
    assert limit.size == (None if most == 100 else -(-failed[-1] // 2))


@OUT_OF_MEMORY
def test_the_size_that_fits_is_remembered_also_for_other_networks(fail: Callable[[], None]) -> None:
    batch, limit = torch.zeros(100, 3), BatchLimit()
    first, second = Small(30, fail), Small(30, fail)
    member_logits([first, second], batch, limit=limit)
    member_logits([first], batch[:10], limit=limit)
    assert limit.size == 25
    assert first.tried == [100, 50, 25, 25, 25, 25, 10]
    assert second.tried == [25] * 4


def test_a_size_that_no_longer_fits_is_halved_again() -> None:
    limit, network = BatchLimit(), Small(30, real_allocation)
    limit.run(network, torch.zeros(100, 3))
    network.most = 5
    limit.run(network, torch.zeros(60, 3))
    assert limit.size == 4


def test_a_smaller_batch_that_does_not_fit_is_halved_not_the_size_that_was_remembered() -> None:
    limit, network = BatchLimit(), Small(30, real_allocation)
    limit.run(network, torch.zeros(100, 3))
    network.most, network.tried = 1, []
    assert len(limit.run(network, torch.zeros(3, 3))) == 3
    assert network.tried == [3, 2, 1, 1, 1]
    assert limit.size == 1


@OUT_OF_MEMORY
def test_a_single_sample_that_does_not_fit_is_an_error(fail: Callable[[], None]) -> None:
    network = Small(0, fail)
    with pytest.raises((RuntimeError, MemoryError)):
        BatchLimit().run(network, torch.zeros(5, 3))
    assert network.tried == [5, 3, 2, 1]


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("wrong")])
def test_other_errors_pass_at_once(error: Exception) -> None:
    network, limit = Small(0, raising(error)), BatchLimit()
    with pytest.raises(type(error), match=str(error)):
        limit.run(network, torch.zeros(5, 3))
    assert (network.tried, limit.size) == ([5], None)


def test_a_batch_that_fits_is_never_copied() -> None:
    seen: list[int] = []

    def network(batch: Tensor) -> Tensor:
        seen.append(batch.data_ptr())
        return batch

    batch = torch.zeros(10, 3)
    BatchLimit().run(network, batch)
    assert seen == [batch.data_ptr()]


# Classes that a member excludes.


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_a_class_that_a_member_of_weight_0_excludes_is_not_lost(average: Any) -> None:
    excluding, other = torch.tensor([[0.0, -torch.inf, 1.0]]), torch.tensor([[0.0, 3.0, 1.0]])
    (scores,) = classify([Classifier("e", (0, 1), (0.0, 1.0), average)], {0: excluding, 1: other})
    assert scores.classes.tolist() == [1]
    torch.testing.assert_close(scores.probabilities, other.softmax(1))
    (scores,) = classify([Classifier("e", (0, 1), (0.5, 0.5), "logits")], {0: excluding, 1: other})
    assert scores.classes.tolist() == [2]
    assert bool(scores.probabilities.isfinite().all())


def test_moments_of_members_that_exclude_a_class_are_finite() -> None:
    from rspipe.ensembles.moments import image_margins
    from rspipe.smoothing.noise import Noise

    class Masked(nn.Linear):
        def forward(self, batch: Tensor) -> Tensor:
            return super().forward(batch).masked_fill(torch.tensor([False, False, False, True]), -torch.inf)

    torch.manual_seed(0)
    members = [Masked(3, 4), nn.Linear(3, 4)]
    margins = image_margins(
        members, torch.zeros(3), 1, Noise(0, 0), averages=("probabilities", "logits"), sigma=0.5, draws=20
    )
    for one in margins.values():
        assert np.isfinite(one.moments.mean).all()
        assert np.isfinite(one.moments.covariance).all()
