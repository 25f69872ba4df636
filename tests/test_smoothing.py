"""Facts about the noise streams and about counting classes under noise."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi2, kstest, kurtosis, norm, skew
from torch import Tensor, nn

from rspipe.errors import ModelError
from rspipe.smoothing import Stream, check_logits, class_counts, evaluating, noise_block, noisy_blocks

CPU = torch.device("cpu")
KEY: dict[str, Any] = {"seed": 5, "example": 7, "stream": Stream.ESTIMATION, "block": 2}
# Two-sided tails of a normal statistic beyond this have probability 2e-9: the chance that sound noise fails a check.
SIGMAS = 6.0


def noise(shape: tuple[int, ...], **changed: Any) -> Tensor:
    return noise_block(shape, **{**KEY, **changed}, device=CPU)


def by_sign(batch: Tensor) -> Tensor:
    """Three classes: 2 where the first coordinate is positive, else 0; never 1."""
    first = batch.flatten(1)[:, 0]
    return torch.stack([-first, torch.full_like(first, -1e3), first], dim=1)


def counts(n: int, *, block_size: int = 100, classifier: Callable[[Tensor], Tensor] = by_sign) -> list[int]:
    x = torch.tensor([0.1, 0.0])
    call: dict[str, Any] = {"seed": 5, "example": 7, "stream": Stream.ESTIMATION}
    return class_counts(classifier, x, sigma=0.5, n=n, block_size=block_size, **call).tolist()


def test_the_same_key_gives_the_same_noise() -> None:
    assert torch.equal(noise((10, 3)), noise((10, 3)))


def test_the_noise_does_not_depend_on_global_generators_and_leaves_them_alone() -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = noise((10,))
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002
    torch.manual_seed(1)
    assert torch.equal(first, noise((10,)))


def test_noise_is_float32_of_the_shape_and_on_the_device_asked_for() -> None:
    block = noise((4, 3, 2))
    assert (block.dtype, block.shape, block.device) == (torch.float32, (4, 3, 2), CPU)


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 6},
        {"example": 8},
        {"stream": Stream.SELECTION},
        {"block": 3},
        {"seed": 7, "example": 5},
        {"stream": Stream.WEIGHTS, "block": 1},
        {"seed": 2**63 + 5},
        {"example": 2**32 + 7},
    ],
)
def test_another_key_gives_uncorrelated_noise(changed: dict[str, Any]) -> None:
    n = 50_000
    a, b = noise((n,)).numpy().astype(np.float64), noise((n,), **changed).numpy().astype(np.float64)
    for lag in (0, 1, 2, 4):
        assert abs(a[lag:] @ b[: n - lag]) / np.sqrt(n) < SIGMAS
    assert abs((a**2 - 1) @ (b**2 - 1)) / (2 * np.sqrt(n)) < SIGMAS


def test_keys_share_no_stretch_of_noise() -> None:
    """Three neighbours agree by chance with probability below 1e-15 over all pairs."""
    keys = [
        {"seed": seed, "example": example, "stream": stream, "block": block}
        for seed in (0, 1)
        for example in (0, 1)
        for stream in Stream
        for block in (0, 1, 2)
    ]
    length = 300
    drawn = [noise((length,), **key).tolist() for key in keys]
    triples = {tuple(values[i : i + 3]) for values in drawn for i in range(length - 2)}
    assert len(triples) == len(keys) * (length - 2)


def test_a_block_begins_with_the_noise_of_a_shorter_one() -> None:
    assert torch.equal(noise((100, 2, 3))[:17], noise((17, 2, 3)))


def test_the_streams_have_numbers_of_their_own_that_never_change() -> None:
    assert {stream.name: int(stream) for stream in Stream} == {
        "SELECTION": 0,
        "ESTIMATION": 1,
        "WEIGHTS": 2,
        "SEARCH_SELECTION": 3,
        "SEARCH_ESTIMATION": 4,
        "PREDICTION": 5,
    }


@pytest.mark.parametrize("changed", [{}, {"seed": 0, "example": 0, "stream": Stream.SELECTION, "block": 0}])
def test_the_noise_is_standard_normal(changed: dict[str, Any]) -> None:
    n = 200_000
    values = noise((n,), **changed).numpy().astype(np.float64)
    # Standard errors of the sample moments of a normal sample.
    assert abs(values.mean()) * np.sqrt(n) < SIGMAS
    assert abs(values.var() - 1) * np.sqrt(n / 2) < SIGMAS
    assert abs(skew(values)) * np.sqrt(n / 6) < SIGMAS
    assert abs(kurtosis(values)) * np.sqrt(n / 24) < SIGMAS
    assert kstest(values, norm.cdf).pvalue > 1e-6


def test_the_tails_of_the_noise_are_normal() -> None:
    n = 1_000_000
    values = noise((n,)).numpy()
    for beyond in (2.0, 3.0, 4.0):
        p = 2 * norm.sf(beyond)
        assert abs((abs(values) > beyond).sum() - n * p) < SIGMAS * np.sqrt(n * p)


def test_first_draws_of_many_keys_are_standard_normal() -> None:
    """What dataset-level statements rest on: noise is as good across examples as within one."""
    values = [float(noise((1,), example=e, seed=s)) for e in range(100) for s in range(50)]
    assert kstest(values, norm.cdf).pvalue > 1e-6


def test_pixels_and_samples_of_a_block_are_uncorrelated() -> None:
    n, d = 20_000, 8
    values = noise((n, d)).numpy().astype(np.float64)
    gram = values.T @ values / np.sqrt(n)
    off = gram[np.triu_indices(d, 1)]
    # The squares of d (d - 1) / 2 uncorrelated entries sum to a chi-squared number.
    assert float(chi2.sf((off**2).sum(), off.size)) > 1e-9
    assert abs((values[1:] * values[:-1]).sum()) / np.sqrt((n - 1) * d) < SIGMAS


@pytest.mark.parametrize("name", ["seed", "example"])
@pytest.mark.parametrize("number", [-1, 2**64])
def test_keys_beyond_64_bits_are_refused(name: str, number: int) -> None:
    with pytest.raises(ValueError, match=rf"{name} must lie in \[0, 2\^64\), got {number}"):
        noise((2,), **{name: number})


def test_keys_use_all_64_bits() -> None:
    assert torch.isfinite(noise((2,), seed=2**64 - 1, example=2**64 - 1)).all()


def test_noisy_inputs_are_the_input_plus_sigma_times_the_noise_of_each_block() -> None:
    x = torch.tensor([[0.5, 0.25]])
    key: dict[str, Any] = {"seed": 5, "example": 7, "stream": Stream.WEIGHTS}
    blocks = list(noisy_blocks(x, sigma=0.5, n=25, block_size=10, **key))
    assert [use for _, use in blocks] == [10, 10, 5]
    for block, (noisy, _) in enumerate(blocks):
        expected = x + 0.5 * noise_block((10, 1, 2), **key, block=block, device=CPU)
        assert torch.equal(noisy, expected)


@pytest.mark.parametrize("n", [10, 20])
def test_no_block_is_drawn_beyond_the_last_sample(n: int) -> None:
    key: dict[str, Any] = {"seed": 5, "example": 7, "stream": Stream.WEIGHTS}
    blocks = list(noisy_blocks(torch.zeros(1), sigma=0.5, n=n, block_size=10, **key))
    assert [use for _, use in blocks] == [10] * (n // 10)


@pytest.mark.parametrize(
    ("given", "noisy"), [(torch.float16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)]
)
def test_noise_is_added_in_float32_at_least(given: torch.dtype, noisy: torch.dtype) -> None:
    x = torch.zeros(3, dtype=given)
    key: dict[str, Any] = {"seed": 5, "example": 7, "stream": Stream.WEIGHTS}
    ((block, _),) = noisy_blocks(x, sigma=0.5, n=10, block_size=10, **key)
    assert block.dtype == noisy


def test_counts_are_those_of_the_classes_of_every_noisy_input() -> None:
    n, size = 250, 100
    key: dict[str, Any] = {"seed": 5, "example": 7, "stream": Stream.ESTIMATION}
    drawn = np.concatenate([noise_block((size, 2), **key, block=b, device=CPU).numpy() for b in range(3)])[:n]
    positive = int((np.float32(0.1) + np.float32(0.5) * drawn[:, 0] > 0).sum())
    assert counts(n, block_size=size) == [n - positive, 0, positive]


def test_counts_cover_classes_that_never_occur() -> None:
    assert counts(1, block_size=1)[1] == 0
    assert len(counts(1, block_size=1)) == 3


def test_samples_beyond_n_do_not_count() -> None:
    assert [sum(counts(n)) for n in (1, 99, 100, 101, 250)] == [1, 99, 100, 101, 250]


def test_more_samples_only_add_to_the_counts_of_fewer() -> None:
    few, many = counts(150), counts(350)
    added = np.subtract(many, few)
    assert added.min() >= 0
    assert added.sum() == 200


def test_ties_go_to_the_lowest_class() -> None:
    def tied(batch: Tensor) -> Tensor:
        return torch.tensor([0.0, 1.0, 1.0]).repeat(len(batch), 1)

    assert counts(10, classifier=tied) == [0, 10, 0]


def test_examples_are_counted_alike_in_any_order() -> None:
    x = torch.tensor([0.1, 0.0])
    key: dict[str, Any] = {"sigma": 0.5, "n": 200, "seed": 5, "stream": Stream.ESTIMATION, "block_size": 64}
    forward = [class_counts(by_sign, x, example=e, **key).tolist() for e in range(5)]
    backward = [class_counts(by_sign, x, example=e, **key).tolist() for e in reversed(range(5))]
    assert forward == backward[::-1]


def test_a_module_is_evaluated_in_eval_mode_and_gets_its_modes_back() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5), nn.BatchNorm1d(2).eval())
    with evaluating(model):
        assert not any(module.training for module in model.modules())
        assert torch.is_inference_mode_enabled()
    assert [module.training for module in model] == [True, True, False]
    assert model.training
    assert not torch.is_inference_mode_enabled()


def test_a_module_in_eval_mode_stays_there() -> None:
    model = nn.Sequential(nn.Dropout(0.5)).eval()
    with evaluating(model):
        pass
    assert not any(module.training for module in model.modules())


def test_plain_functions_run_without_gradients_too() -> None:
    with evaluating(by_sign):
        assert torch.is_inference_mode_enabled()


def test_finite_logits_of_the_right_shape_pass() -> None:
    check_logits(torch.zeros(5, 2), samples=5)


@pytest.mark.parametrize("shape", [(5,), (4, 2), (5, 1), (5, 0), (5, 2, 1)])
def test_logits_of_another_shape_are_refused_by_name(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=r"member 3 returned shape .* for 5 inputs; expected \[5, class\]"):
        check_logits(torch.zeros(shape), samples=5, name="member 3")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_not_finite_are_refused_wherever_they_are(value: float) -> None:
    def broken(batch: Tensor) -> Tensor:
        logits = torch.zeros(len(batch), 3)
        logits[0, 1] = value
        return logits

    with pytest.raises(ModelError, match="NaN or infinite logits"):
        counts(100, classifier=broken)
