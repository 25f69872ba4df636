"""Facts about the noise streams and about counting classes under noise."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi2, kstest, kurtosis, norm, skew
from torch import Tensor, nn

from rspipe.errors import ModelError
from rspipe.networks.modes import evaluating
from rspipe.smoothing.certify import class_counts
from rspipe.smoothing.classifiers import check_logits
from rspipe.smoothing.noise import Noise, Stream, _normal_rows, default_batch, noisy_batches
from tests.noise_builder import noise_block

CPU = torch.device("cpu")
KEY: dict[str, Any] = {"seed": 5, "example": 7, "stream": Stream.ESTIMATION, "block": 2}
OF_A_STREAM: dict[str, Any] = {"seed": 5, "example": 7, "stream": Stream.WEIGHTS}
# Two-sided tails of a normal statistic beyond this have probability 2e-9: the chance that sound noise fails a check.
SIGMAS = 6.0


def noise(shape: tuple[int, ...], **changed: Any) -> Tensor:
    return noise_block(shape, **{**KEY, **changed})


def by_sign(batch: Tensor) -> Tensor:
    """Three classes: 2 where the first coordinate is positive, else 0; never 1."""
    first = batch.flatten(1)[:, 0]
    return torch.stack([-first, torch.full_like(first, -1e3), first], dim=1)


def counts(n: int, *, block_size: int = 100, classifier: Callable[[Tensor], Tensor] = by_sign) -> list[int]:
    x = torch.tensor([0.1, 0.0])
    drawn = Noise(5, 7, block_size)
    return class_counts(classifier, x, drawn, Stream.ESTIMATION, sigma=0.5, n=n).tolist()


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


@pytest.mark.parametrize("shape", [(200, 1), (200, 2), (100, 3, 5), (300,)])
def test_the_noise_is_box_mullers_transform_of_philox_words(shape: tuple[int, ...]) -> None:
    """Noise is the same on every machine and in every version: it equals its definition in float64."""
    size = int(np.prod(shape[1:]))
    pairs = -(-size // 2)
    generator = np.random.Philox(key=np.array([5, 7], np.uint64), counter=np.array([0, 2, 1, 0], np.uint64))
    words = generator.random_raw(shape[0] * pairs).reshape(shape[0], pairs)
    low, high = words & 0xFFFFFFFF, (words >> 32).astype(np.int64)
    radius = np.sqrt(-2 * np.log(((low & 0x7FFFFFFF) + 0.5) / 2**31))
    angle = np.pi * np.where(high < 2**31, high, high - 2**32) / 2**31
    expected = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)[:, :size]
    # In float32 the uniform number has two roundings of 2^-25, its logarithm and the square root a few of 2^-24: an
    # error of the radius's square, which is divided by the radius. The angle, up to pi, has three of 2^-24.
    of_square = 2 * 2**-24 + 8 * 2**-24 * radius**2
    tolerance = np.tile(of_square / radius + radius * np.pi * 2**-22, 2)[:, :size]
    assert (abs(noise(shape).reshape(-1, size).double().numpy() - expected) <= tolerance).all()


def test_no_words_give_noise_beyond_the_largest_radius() -> None:
    """The least uniform number is 2^-32: sqrt(64 ln 2) = 6.660."""
    halves = [0, 1, 0x3FFFFFFF, 0x7FFFFFFE, 0x7FFFFFFF, 0x80000000, 0xBFFFFFFF, 0xFFFFFFFF]
    words = np.array([high << 32 | low for high in halves for low in halves], dtype=np.uint64).view(np.int64)
    drawn = _normal_rows(lambda number: torch.from_numpy(words[:number].copy()), words.size, 2)
    assert np.isfinite(drawn).all()
    assert abs(drawn).max() <= np.hypot(*drawn.T.astype(np.float64)).max() < 6.661


def in_batches(x: Tensor, *, n: int, block_size: int, batch_size: int | None, sigma: float = 0.5) -> Tensor:
    """The noisy inputs that count, in one piece."""
    batches = noisy_batches(x, Noise(5, 7, block_size, batch_size), Stream.WEIGHTS, sigma=sigma, n=n)
    return torch.cat([noisy[:use].clone() for noisy, use in batches])


SHAPES = [(), (1,), (2,), (7,), (3, 5), (1, 8, 8), (3, 9, 7)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30, 60])
def test_a_block_drawn_in_parts_is_the_block_drawn_at_once(shape: tuple[int, ...], batch_size: int) -> None:
    whole = torch.cat([noise_block((60, *shape), **OF_A_STREAM, block=b) for b in range(2)])
    drawn = in_batches(torch.zeros(shape), n=120, block_size=60, batch_size=batch_size, sigma=1.0)
    assert torch.equal(drawn, whole)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3,), (3, 9, 7)], ids=str)
def test_noisy_inputs_do_not_depend_on_how_many_run_at_once(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.linspace(0, 1, int(np.prod(shape))).reshape(shape).to(dtype)
    whole = in_batches(x, n=150, block_size=60, batch_size=60, sigma=0.3)
    for batch_size in (1, 4, 5, 12, 30, None):
        assert torch.equal(in_batches(x, n=150, block_size=60, batch_size=batch_size, sigma=0.3), whole)


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noisy_inputs_do_not_depend_on_the_number_of_threads(dtype: torch.dtype) -> None:
    # Large and odd, so that torch shares the work out, at places that are no multiple of a vector.
    x = torch.linspace(0, 1, 3 * 31 * 29).reshape(3, 31, 29).to(dtype)
    with threads(1):
        alone = in_batches(x, n=105, block_size=105, batch_size=105, sigma=0.3)
    with threads(2):
        shared = in_batches(x, n=105, block_size=105, batch_size=105, sigma=0.3)
    assert torch.equal(alone, shared)


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
        "PILOT": 6,
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
    # Beyond the largest radius a normal number lies with probability 2.6e-11.
    assert abs(values).max() <= 6.67


def test_first_draws_of_many_keys_are_standard_normal() -> None:
    """Noise is as good across examples as within one, which statements on data sets rest on."""
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
    # A cosine and a sine share their radius, which may not show in their squares.
    square = (values**2 - 1) / np.sqrt(2)
    off = (square.T @ square / np.sqrt(n))[np.triu_indices(d, 1)]
    assert abs(off).max() < SIGMAS


@pytest.mark.parametrize("name", ["seed", "example"])
@pytest.mark.parametrize("number", [-1, 2**64])
def test_keys_beyond_64_bits_are_refused(name: str, number: int) -> None:
    with pytest.raises(ValueError, match=rf"{name} must lie in \[0, 2\^64\), got {number}"):
        noise((2,), **{name: number})


def test_keys_use_all_64_bits() -> None:
    assert torch.isfinite(noise((2,), seed=2**64 - 1, example=2**64 - 1)).all()


def test_noisy_inputs_are_the_input_plus_sigma_times_the_noise_of_each_block() -> None:
    x = torch.tensor([[0.5, 0.25]])
    batches = list(noisy_batches(x, Noise(5, 7, 10), Stream.WEIGHTS, sigma=0.5, n=25))
    assert [use for _, use in batches] == [10, 10, 5]
    for block, (noisy, _) in enumerate(batches):
        expected = x + 0.5 * noise_block((10, 1, 2), **OF_A_STREAM, block=block)
        assert torch.equal(noisy, expected)


@pytest.mark.parametrize(
    ("n", "batch_size", "uses"),
    [
        (10, None, [10]),
        (20, None, [10, 10]),
        (10, 5, [5, 5]),
        (13, 5, [5, 5, 3]),
        (25, 2, [2] * 5 + [2] * 5 + [2, 2, 1]),
        (5, 5, [5]),
    ],
)
def test_no_batch_is_drawn_beyond_the_last_sample_and_all_have_one_shape(
    n: int, batch_size: int | None, uses: list[int]
) -> None:
    batches = list(noisy_batches(torch.zeros(1), Noise(5, 7, 10, batch_size), Stream.WEIGHTS, sigma=0.5, n=n))
    assert [use for _, use in batches] == uses
    assert {len(noisy) for noisy, _ in batches} == {batch_size or 10}


@pytest.mark.parametrize(("n", "batch_size"), [(3, None), (3, 5), (3, 10), (1, 2)])
def test_fewer_samples_than_a_batch_are_a_batch_of_their_own_and_the_same_samples(n: int, batch_size: int) -> None:
    x = torch.tensor([0.5, 0.25, 1.0])
    ((noisy, use),) = noisy_batches(x, Noise(5, 7, 10, batch_size), Stream.WEIGHTS, sigma=0.5, n=n)
    assert (len(noisy), use) == (n, n)
    assert torch.equal(noisy, in_batches(x, n=10, block_size=10, batch_size=10)[:n])


def test_a_batch_that_does_not_divide_the_block_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size must divide block_size = 100, got 30"):
        Noise(5, 7, block_size=100, batch_size=30)


@pytest.mark.parametrize("block_size", [1, 60, 97, 1000])
@pytest.mark.parametrize("pixels", [0, 1, 64, 784, 1024, 50_176, 1_000_000])
@pytest.mark.parametrize("channels", [(), (1, 1), (3, 1)])
def test_a_batch_is_the_largest_divisor_of_a_block_whose_pixels_fit_a_cache(
    pixels: int, channels: tuple[int, ...], block_size: int
) -> None:
    divisors = [d for d in range(1, block_size + 1) if block_size % d == 0]
    fitting = [d for d in divisors if d * pixels <= 400_000]
    assert default_batch(torch.zeros(*channels, pixels), block_size=block_size) == (max(fitting) if fitting else 1)


@pytest.mark.parametrize(
    ("given", "noisy"), [(torch.float16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)]
)
def test_noise_is_added_in_float32_at_least(given: torch.dtype, noisy: torch.dtype) -> None:
    ((batch, _),) = noisy_batches(torch.zeros(3, dtype=given), Noise(5, 7, 10), Stream.WEIGHTS, sigma=0.5, n=10)
    assert batch.dtype == noisy


def test_counts_are_those_of_the_classes_of_every_noisy_input() -> None:
    n, size = 250, 100
    key: dict[str, Any] = {"seed": 5, "example": 7, "stream": Stream.ESTIMATION}
    drawn = np.concatenate([noise_block((size, 2), **key, block=b).numpy() for b in range(3)])[:n]
    positive = int((np.float32(0.1) + np.float32(0.5) * drawn[:, 0] > 0).sum())
    assert counts(n, block_size=size) == [n - positive, 0, positive]


@pytest.mark.parametrize("batch_size", [1, 4, 20, 50, None])
def test_counts_do_not_depend_on_how_many_samples_run_at_once(batch_size: int | None) -> None:
    x, whole = torch.tensor([0.1, 0.0]), counts(250)
    drawn = Noise(5, 7, 100, batch_size)
    assert class_counts(by_sign, x, drawn, Stream.ESTIMATION, sigma=0.5, n=250).tolist() == whole


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

    def counted(example: int) -> list[int]:
        return class_counts(by_sign, x, Noise(5, example, 64), Stream.ESTIMATION, sigma=0.5, n=200).tolist()

    forward = [counted(e) for e in range(5)]
    backward = [counted(e) for e in reversed(range(5))]
    assert forward == backward[::-1]


def test_a_module_is_evaluated_in_eval_mode_and_gets_its_modes_back() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5), nn.BatchNorm1d(2).eval())
    with evaluating(model):
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
    assert [module.training for module in model] == [True, True, False]
    assert model.training
    assert torch.is_grad_enabled()


def test_a_module_in_eval_mode_stays_there() -> None:
    model = nn.Sequential(nn.Dropout(0.5)).eval()
    with evaluating(model):
        pass
    assert not any(module.training for module in model.modules())


def test_plain_functions_run_without_gradients_too() -> None:
    with evaluating(by_sign):
        assert not torch.is_grad_enabled()


def test_finite_logits_of_the_right_shape_pass() -> None:
    check_logits(torch.zeros(5, 2), samples=5)


@pytest.mark.parametrize("shape", [(5,), (4, 2), (5, 1), (5, 0), (5, 2, 1)])
def test_logits_of_another_shape_are_refused_by_name(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=r"member 3 returned shape .* for 5 inputs; expected \[5, class\]"):
        check_logits(torch.zeros(shape), samples=5, name="member 3")


def test_logits_of_another_number_of_classes_than_the_data_are_refused_by_name() -> None:
    check_logits(torch.zeros(5, 3), samples=5, classes=3)
    with pytest.raises(ModelError, match="member 3 knows 2 classes but the data have 3; give it the data's classes"):
        check_logits(torch.zeros(5, 2), samples=5, name="member 3", classes=3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_rank_nothing_are_refused_wherever_they_are(value: float) -> None:
    def broken(batch: Tensor) -> Tensor:
        logits = torch.zeros(len(batch), 3)
        logits[0, 1] = value
        return logits

    with pytest.raises(ModelError, match=r"NaN or \+inf as a logit"):
        counts(100, classifier=broken)
