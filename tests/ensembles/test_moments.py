"""Facts about margins' moments: float64 oracles, exact merging, within-image covariances, choice of pairs."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rspipe.arrays import FloatArray
from rspipe.ensembles.moments import ImageMargins, Moments, image_margins, label_margins, runner_up_pairs
from rspipe.errors import ModelError
from rspipe.smoothing.classifiers import BatchLimit
from rspipe.smoothing.noise import Noise, Stream, default_batch
from tests.noise_builder import noise_block

X = torch.tensor([0.2, -0.1, 0.3])
NOISE = Noise(seed=1, example=1)
EPSILON = np.finfo(np.float64).eps


def networks(k: int = 2, *, classes: int = 3) -> list[nn.Linear]:
    made = []
    for member in range(k):
        network = nn.Linear(3, classes)
        rng = np.random.default_rng(member)
        network.weight.data = torch.tensor(rng.normal(size=(classes, 3)), dtype=torch.float32)
        network.bias.data = torch.tensor(rng.normal(size=classes), dtype=torch.float32)
        made.append(network)
    return made


def margins_of(*given: Any, average: str, **named: Any) -> ImageMargins:
    return image_margins(*given, averages=(average,), **named)[average]


def whole_numbers(n: int, *shape: int, seed: int = 0) -> FloatArray:
    """Samples whose sums and products are exact in float64."""
    return np.random.default_rng(seed).integers(-100, 100, size=(n, *shape)).astype(np.float64)


def merged(parts: list[FloatArray]) -> Moments:
    total = Moments.of(parts[0])
    for part in parts[1:]:
        total = total.merge(Moments.of(part))
    return total


def test_moments_are_the_mean_and_the_unbiased_covariance() -> None:
    samples = np.random.default_rng(0).normal(size=(50, 3))
    moments = Moments.of(samples)
    assert moments.count == 50
    np.testing.assert_allclose(moments.mean, samples.mean(0), rtol=1e-13)
    np.testing.assert_allclose(moments.covariance, np.cov(samples.T), rtol=1e-12, atol=1e-14)


def test_every_leading_index_has_moments_of_its_own() -> None:
    samples = np.random.default_rng(0).normal(size=(20, 4, 2, 3))
    moments = Moments.of(samples)
    assert (moments.mean.shape, moments.covariance.shape) == ((4, 2, 3), (4, 2, 3, 3))
    for i in np.ndindex(4, 2):
        np.testing.assert_allclose(moments.covariance[i], np.cov(samples[:, *i].T), rtol=1e-12, atol=1e-14)


@settings(deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1000),
    n=st.integers(2, 60),
    k=st.integers(1, 4),
    offset=st.sampled_from([0.0, 1e3, -1e6]),
    cuts=st.lists(st.floats(0, 1), max_size=8),
)
def test_parts_merge_to_the_whole_however_it_is_split(
    seed: int, n: int, k: int, offset: float, cuts: list[float]
) -> None:
    samples = offset + np.random.default_rng(seed).normal(size=(n, k))
    places = sorted({0, n, *(round(cut * n) for cut in cuts)})
    got = merged([samples[a:b] for a, b in pairwise(places)])
    whole = samples - offset
    assert got.count == n
    # A sample is rounded to EPSILON |offset|; deviations carry that error, the scatter n times it.
    error = 10 * EPSILON * (abs(offset) + 10)
    np.testing.assert_allclose(got.mean, offset + whole.mean(0), rtol=0, atol=error)
    centred = whole - whole.mean(0)
    np.testing.assert_allclose(got.scatter, centred.T @ centred, rtol=1e-10, atol=20 * n * error)


def test_merging_is_symmetric() -> None:
    a, b = Moments.of(whole_numbers(7, 3)), Moments.of(whole_numbers(30, 3, seed=1))
    np.testing.assert_allclose(a.merge(b).mean, b.merge(a).mean, rtol=1e-13)
    np.testing.assert_allclose(a.merge(b).scatter, b.merge(a).scatter, rtol=1e-13)


def test_single_samples_merge_to_a_covariance() -> None:
    samples = whole_numbers(12, 2)
    got = merged([samples[i : i + 1] for i in range(12)])
    np.testing.assert_allclose(got.covariance, np.cov(samples.T), rtol=1e-12)


def test_a_large_common_offset_costs_no_digits_of_the_covariance() -> None:
    """With E[zz'] - mm' an offset of 1e9 would leave nothing of a variance of order 1e3."""
    samples = whole_numbers(400, 2)
    shifted = samples + 2.0**30
    exact = np.cov(samples.T)
    np.testing.assert_allclose(Moments.of(shifted).covariance, exact, rtol=1e-9)
    # A mean is right to its last digit, 2^30 EPSILON; merging multiplies that by the shift between parts, below 100.
    got = merged([shifted[:100], shifted[100:150], shifted[150:]]).covariance
    np.testing.assert_allclose(got, exact, atol=100 * 2.0**30 * EPSILON)


def test_parts_far_apart_merge_to_the_variance_between_them() -> None:
    a, b = np.zeros((3, 1)), np.full((1, 1), 8.0)
    assert merged([a, b]).mean.tolist() == [2.0]
    assert merged([a, b]).scatter.tolist() == [[48.0]]


def test_float32_samples_are_accumulated_in_float64() -> None:
    samples = (1000 + np.random.default_rng(0).normal(size=(500, 2))).astype(np.float32)
    exact = np.cov(samples.astype(np.float64).T)
    np.testing.assert_allclose(Moments.of(samples).covariance, exact, rtol=1e-9)


def test_a_covariance_needs_two_samples() -> None:
    with pytest.raises(ValueError, match="a covariance needs at least 2 samples, got 1"):
        _ = Moments.of(whole_numbers(1, 2)).covariance


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_the_margins_of_every_draw_are_kept_beside_their_moments(average: str) -> None:
    estimated = margins_of(networks(), X, 1, Noise(1, 1, block_size=100), average=average, sigma=0.5, draws=300)
    assert estimated.margins.shape == (300, 2, 2)
    kept = estimated.margins.astype(np.float64)
    # Rounded to eleven bits, of margins below 8.
    np.testing.assert_allclose(kept.mean(0), estimated.moments.mean, atol=8 * 2.0**-11)
    np.testing.assert_allclose(np.cov(kept[:, 0].T), estimated.moments.covariance[0], rtol=0.01, atol=1e-3)
    if average == "probabilities":
        sums = estimated.label_probability * 3 - kept.sum(1)
        # p_y - p_c over the others c: 2 p_y - (1 - p_y).
        np.testing.assert_allclose(sums, 1, atol=3 * 2.0**-11)


def test_margins_beyond_what_half_precision_holds_are_kept_finite() -> None:
    (network,) = networks(1)
    network.weight.data *= 1e6
    margins = margins_of([network], X, 1, NOISE, average="logits", sigma=0.5, draws=20).margins
    assert np.isfinite(margins).all()
    assert abs(margins).max() > 5e4


@pytest.mark.parametrize("label", [0, 1, 2])
def test_margins_are_the_labels_score_minus_each_other_classs_in_order(label: int) -> None:
    scores = [torch.tensor([[1.0, 2.0, 4.0], [0.0, 8.0, 1.0]]), torch.tensor([[3.0, 0.0, 1.0], [5.0, 5.0, 2.0]])]
    got = label_margins(scores, label)
    others = [c for c in range(3) if c != label]
    for s in range(2):
        for j, c in enumerate(others):
            for k in range(2):
                assert got[s, j, k] == scores[k][s, label] - scores[k][s, c]
    assert (got.shape, got.dtype) == ((2, 2, 2), np.float64)


def test_margins_are_subtracted_in_float64() -> None:
    scores = [torch.tensor([[2.0**25, 1.5]])]
    assert label_margins(scores, 0)[0, 0, 0] == 2.0**25 - 1.5


@pytest.mark.parametrize("average", ["logits", "probabilities"])
@pytest.mark.parametrize("draws", [20, 50])
def test_an_images_moments_are_those_of_its_margins_under_the_weights_noise(average: str, draws: int) -> None:
    members, label, sigma, size = networks(), 1, 0.5, 20
    key: dict[str, Any] = {"seed": 4, "example": 9}
    noise = Noise(**key, block_size=size)
    got = margins_of(members, X, label, noise, average=average, sigma=sigma, draws=draws).moments
    blocks = [noise_block((size, 3), **key, stream=Stream.WEIGHTS, block=b) for b in range(-(-draws // size))]
    noisy = X.double().numpy() + sigma * torch.cat(blocks)[:draws].double().numpy()
    margins = []
    for member in members:
        scores = noisy @ member.weight.detach().double().numpy().T + member.bias.detach().double().numpy()
        if average == "probabilities":
            scores = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        margins.append(scores[:, [label]] - scores[:, [0, 2]])
    z = np.stack(margins, axis=-1)
    assert got.count == draws
    # The members run in float32: relative errors of a few 1e-7 of scores below 10.
    np.testing.assert_allclose(got.mean, z.mean(0), atol=1e-5)
    for c in range(2):
        np.testing.assert_allclose(got.covariance[c], np.cov(z[:, c].T), atol=1e-4)


def large_members(size: int) -> list[nn.Linear]:
    """Members on inputs so large that only a few samples run at once."""
    made = [nn.Linear(size, 3) for _ in range(2)]
    for number, member in enumerate(made):
        rng = np.random.default_rng(number)
        member.weight.data = torch.tensor(rng.normal(size=(3, size)) / size**0.5, dtype=torch.float32)
        member.bias.data.zero_()
    return made


def test_an_images_moments_do_not_depend_on_how_many_draws_run_at_once() -> None:
    size, draws = 16_000, 200
    x, members, label, sigma = torch.linspace(0, 1, size), large_members(size), 2, 0.5
    key: dict[str, Any] = {"seed": 4, "example": 9}
    assert default_batch(x, block_size=1000) == 25
    got = margins_of(members, x, label, Noise(**key), average="logits", sigma=sigma, draws=draws).moments
    noise = noise_block((draws, size), **key, stream=Stream.WEIGHTS, block=0)
    noisy = x.double() + sigma * noise.double()
    scores = [noisy @ m.weight.detach().double().T for m in members]
    expected = Moments.of(label_margins(scores, label))
    assert got.count == draws
    # Dot products of 4000 terms below 0.1 in float32: errors of a few 1e-6 of margins below 10.
    np.testing.assert_allclose(got.mean, expected.mean, atol=1e-4)
    np.testing.assert_allclose(got.covariance, expected.covariance, atol=1e-3)


class Small(nn.Module):
    """Runs out of memory beyond some samples; each sample's logits are its own."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def forward(self, batch: Tensor) -> Tensor:
        if len(batch) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.stack([batch[:, 0], batch[:, 1] * 2, batch[:, 2] * batch[:, 0]], dim=1)


def test_members_that_run_out_of_memory_have_the_same_moments() -> None:
    call: dict[str, Any] = {"average": "logits", "sigma": 0.5, "draws": 100}
    limit = BatchLimit()
    whole = margins_of([Small(100), Small(100)], X, 0, NOISE, **call).moments
    pieces = margins_of([Small(30), Small(20)], X, 0, NOISE, limit=limit, **call).moments
    assert limit.size == 13
    assert np.array_equal(pieces.mean, whole.mean)
    assert np.array_equal(pieces.covariance, whole.covariance)


class Counting(nn.Module):
    """A member that counts the samples it ran on."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.samples = network, 0

    def forward(self, batch: Tensor) -> Tensor:
        self.samples += len(batch)
        logits: Tensor = self.network(batch)
        return logits


def test_probabilities_and_logits_come_from_the_same_forward_passes() -> None:
    call: dict[str, Any] = {"sigma": 0.5, "draws": 300}
    members, in_hundreds = [Counting(network) for network in networks()], Noise(1, 1, block_size=100)
    both = image_margins(members, X, 1, in_hundreds, averages=("probabilities", "logits"), **call)
    assert [member.samples for member in members] == [300, 300]
    for average, estimated in both.items():
        alone = margins_of(networks(), X, 1, in_hundreds, average=average, **call)
        assert np.array_equal(estimated.moments.mean, alone.moments.mean)
        assert np.array_equal(estimated.moments.scatter, alone.moments.scatter)
        assert np.array_equal(estimated.margins, alone.margins)
        assert np.array_equal(estimated.label_probability, alone.label_probability)
    assert not np.allclose(both["logits"].moments.mean, both["probabilities"].moments.mean)


def test_linear_members_have_the_closed_form_moments() -> None:
    """z = d'(x + sigma eps) + const with d = w_y - w_c: mean at x, covariance sigma^2 d_k'd_l."""
    members, label, sigma, draws = networks(), 0, 0.5, 4000
    got = margins_of(members, X, label, NOISE, average="logits", sigma=sigma, draws=draws).moments
    for j, c in enumerate((1, 2)):
        d = np.stack([(m.weight[label] - m.weight[c]).detach().double().numpy() for m in members])
        constant = np.array([(m.bias[label] - m.bias[c]).item() for m in members])
        covariance = sigma**2 * d @ d.T
        variance = np.diag(covariance)
        # Six standard errors of a normal sample's mean and covariance.
        error = 6 * np.sqrt(variance / draws)
        assert np.all(abs(got.mean[j] - (d @ X.double().numpy() + constant)) < error)
        spread = 6 * np.sqrt((np.outer(variance, variance) + covariance**2) / draws)
        assert np.all(abs(got.covariance[j] - covariance) < spread)


def test_a_repeated_member_has_the_same_margins_under_the_shared_noise() -> None:
    (member,) = networks(1)
    got = margins_of([member, member], X, 0, NOISE, average="logits", sigma=0.5, draws=100).moments
    covariance = got.covariance
    assert np.array_equal(covariance[:, 0, 0], covariance[:, 0, 1])
    assert np.array_equal(covariance[:, 0, 0], covariance[:, 1, 1])


def test_the_moments_do_not_depend_on_the_mode_that_members_were_left_in() -> None:
    member = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    call: dict[str, Any] = {"average": "logits", "sigma": 0.5, "draws": 60}
    in_eval = margins_of([member.eval()], X, 0, NOISE, **call).moments
    in_train = margins_of([member.train()], X, 0, NOISE, **call).moments
    assert np.array_equal(in_eval.covariance, in_train.covariance)


def test_a_member_that_returns_nan_has_no_moments() -> None:
    class Broken(nn.Module):
        def forward(self, batch: Tensor) -> Tensor:
            return torch.full((len(batch), 3), float("nan"))

    with pytest.raises(ModelError, match="member 0 returned NaN"):
        margins_of([Broken()], X, 0, NOISE, average="logits", sigma=0.5, draws=10)


def test_the_runner_up_has_the_smallest_mean_margin_of_all_members_among_images_they_get_right() -> None:
    mean = np.array(
        [
            [[3.0, 3.0], [0.5, 2.0], [2.0, 1.0]],  # averages 3, 1.25, 1.5: competitor 1
            [[5.0, 5.0], [-2.0, 1.0], [4.0, 4.0]],  # -0.5: wrong on average
            [[-1.0, 2.0], [9.0, 9.0], [9.0, 9.0]],  # 0.5: right, though the first member alone is not
            [[2.0, -1.0], [-1.0, -1.0], [1.0, 0.5]],  # -1: not right
        ]
    )
    covariance = np.arange(4 * 3 * 4.0).reshape(4, 3, 2, 2)
    pairs = runner_up_pairs(mean, covariance)
    # The root mean squares are 4.35 and 4.32: near enough to equal.
    assert pairs.mean.tolist() == [[0.5, 2.0], [-1.0, 2.0]]
    assert pairs.covariance.tolist() == [covariance[0, 1].tolist(), covariance[2, 0].tolist()]


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_which_pairs_are_chosen_does_not_depend_on_the_scale_of_a_member(factor: float) -> None:
    rng = np.random.default_rng(0)
    mean, covariance = rng.normal(0.5, 1, (50, 4, 3)), rng.normal(size=(50, 4, 3, 3))
    d = np.array([1.0, factor, 1.0])
    pairs, scaled = runner_up_pairs(mean, covariance), runner_up_pairs(d * mean, np.outer(d, d) * covariance)
    np.testing.assert_allclose(scaled.mean, d * pairs.mean, rtol=1e-12)
    np.testing.assert_allclose(scaled.covariance, np.outer(d, d) * pairs.covariance, rtol=1e-12)


def test_there_are_no_pairs_where_no_image_is_right() -> None:
    pairs = runner_up_pairs(np.full((3, 2, 2), -1.0), np.ones((3, 2, 2, 2)))
    assert (pairs.mean.shape, pairs.covariance.shape) == ((0, 2), (0, 2, 2))
