"""Facts about noise on the grid of an image's pixels: its law, to the last bit, and what follows for certificates."""

from bisect import bisect_right
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.special import ndtri
from scipy.stats import binom, chi2
from torch import Tensor

import rspipe
from rspipe.smoothing.certify import class_counts
from rspipe.smoothing.grid import GRIDS, grid_steps, table_of, thresholds
from rspipe.smoothing.noise import Noise, NoiseKind, Stream, device_words, noisy_batches

CPU = torch.device("cpu")
# The chance that sound noise fails a check.
CHANCE = 1e-9


def bytes_image(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape)).to(torch.float32) / 255


def law(sigma: float, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The values of K and their probabilities, as they are drawn."""
    numbers = thresholds(sigma, steps)
    m = len(numbers) // 2
    return np.arange(-m, m + 1), np.array([(b - a) / 2**80 for a, b in pairwise([0, *numbers, 2**80])])


def chance_of(drawn: np.ndarray, k: np.ndarray, probability: np.ndarray) -> float:
    """The chance of a larger chi-squared statistic than that of numbers drawn; rare values count as one."""
    counts = np.bincount(drawn - k[0], minlength=k.size)
    usual = drawn.size * probability > 20
    observed = np.append(counts[usual], counts[~usual].sum())
    expected = drawn.size * np.append(probability[usual], probability[~usual].sum())
    return float(chi2.sf(((observed - expected) ** 2 / expected).sum(), observed.size - 1))


def in_batches(x: Tensor, *, n: int, block_size: int = 60, batch_size: int | None = None, sigma: float = 0.3) -> Tensor:
    batches = noisy_batches(x, Noise(5, 7, block_size, batch_size, "grid"), Stream.WEIGHTS, sigma=sigma, n=n)
    return torch.cat([noisy[:use].clone() for noisy, use in batches])


@pytest.mark.parametrize(
    ("sigma", "steps"), [(0.0005, 255), (0.01, 256), (0.12, 255), (0.25, 255), (0.5, 256), (1.0, 255)]
)
def test_thresholds_are_those_of_a_rounded_normal_number_to_the_last_of_80_bits(sigma: float, steps: int) -> None:
    flint = pytest.importorskip("flint", reason="needs python-flint, which is in the dev extra", exc_type=ImportError)
    numbers = thresholds(sigma, steps)
    m = len(numbers) // 2
    assert 10.6 * sigma * steps <= m < 10.6 * sigma * steps + 1
    with flint.ctx.workprec(200):
        scale = flint.arb(sigma) * steps * flint.arb(2).sqrt()
        for k, number in zip(range(-m, m), numbers, strict=True):
            probability = (1 + (flint.arb(2 * k + 1) / 2 / scale).erf()) / 2
            assert number <= probability * 2**80 < number + 1, k


@pytest.mark.parametrize("torch_alone", [False, True], ids=["numpy", "torch, as on GPUs"])
@pytest.mark.parametrize(("sigma", "steps"), [(0.0005, 255), (0.05, 255), (0.5, 256), (1.0, 256)])
def test_numbers_are_drawn_by_the_thresholds_exactly(sigma: float, steps: int, *, torch_alone: bool) -> None:
    """At each threshold, one below it, and at numbers that share its first bits: k = -m + #{k: T_k <= U}."""
    numbers = thresholds(sigma, steps)
    m = len(numbers) // 2
    drawn = [0, 2**80 - 1, *(u for t in numbers for u in (t, max(t - 1, 0), t >> 64 << 64, t | (2**64 - 1)))]
    rows = [(((u >> 64) - 2**15) % 2**16, (u % 2**64) - 2**63) for u in drawn]
    words = torch.tensor([first if first < 2**15 else first - 2**16 for first, _ in rows]).to(torch.int64)[:, None]
    undecided = {t >> 64 for t in numbers}
    more = [low for u, (_, low) in zip(drawn, rows, strict=True) if u >> 64 in undecided]

    def bits(number: int) -> Tensor:
        assert number == len(more)
        return torch.tensor(more)

    result = table_of(numbers, CPU, torch_alone=torch_alone).draw(words, bits, size=1)
    assert result.flatten().tolist() == [bisect_right(numbers, u) - m for u in drawn]


@pytest.mark.parametrize("shape", [(), (7,), (3, 9, 7)], ids=str)
def test_noise_is_made_of_philox_words_by_its_definition(shape: tuple[int, ...]) -> None:
    """It is the same on every machine and in every version: 16 bits each, and 64 where they do not decide, by rows."""
    sigma, n, size = 0.5, 40, int(np.prod(shape))
    x, numbers, words = bytes_image(*shape), thresholds(sigma, 255), -(-size // 4)
    first, second = (
        np.random.Philox(key=np.array([5, 7], np.uint64), counter=np.array([0, 0, 2, part], np.uint64))
        for part in (0, 1)
    )
    main = first.random_raw(n * words).view(np.int16).reshape(n, -1)[:, :size].astype(int).ravel() + 2**15
    undecided = {t >> 64 for t in numbers}
    low = [int(second.random_raw()) if u in undecided else 0 for u in main.tolist()]
    u = [(high << 64) + (word + 2**63) % 2**64 for high, word in zip(main.tolist(), low, strict=True)]
    k = np.array([bisect_right(numbers, one) - len(numbers) // 2 for one in u]).reshape(n, *shape)
    expected = (k + np.rint(255 * x.numpy())).astype(np.float32) / np.float32(255)
    assert torch.equal(in_batches(x, n=n, sigma=sigma), torch.from_numpy(expected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3,), (3, 9, 7)], ids=str)
def test_noisy_inputs_do_not_depend_on_how_many_run_at_once(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = (255 * bytes_image(*shape)).round().to(dtype) / 255
    whole = in_batches(x, n=150, batch_size=60)
    assert whole.dtype == dtype
    for batch_size in (1, 4, 5, 12, 30, None):
        assert torch.equal(in_batches(x, n=150, batch_size=batch_size), whole)
    assert torch.equal(in_batches(x, n=17), whole[:17])


def test_drawn_numbers_have_the_law_of_the_thresholds() -> None:
    sigma, n = 0.05, 400_000
    k, probability = law(sigma, 255)
    noisy = in_batches(torch.zeros(40), n=n // 40, block_size=1000, sigma=sigma)
    drawn = (255 * noisy).round().to(torch.int64).numpy().ravel()
    assert torch.equal(noisy.flatten(), torch.from_numpy(drawn.astype(np.float32)) / 255)
    assert chance_of(drawn, k, probability) > CHANCE


def test_the_operations_of_gpus_draw_the_same_law_from_torchs_own_words() -> None:
    sigma, rows = 0.05, 5000
    k, probability = law(sigma, 255)
    table = table_of(thresholds(sigma, 255), CPU, torch_alone=True)
    drawn = [
        table.draw(device_words(seed, CPU)(rows * 10).view(rows, 10), device_words(seed + 1, CPU), size=39)
        for seed in (1, 1, 3)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert chance_of(drawn[0].long().numpy().ravel(), k, probability) > CHANCE


@pytest.mark.parametrize("sigma", [0.1, 0.7])
def test_a_linear_classifier_has_its_probability_in_closed_form(sigma: float) -> None:
    """The sum of two pixels is above a level: a convolution of the law with itself says how often."""
    n, (k, probability) = 20_000, law(sigma, 255)
    x, level = torch.tensor([120, 90]) / 255, 230

    def above(batch: Tensor) -> Tensor:
        above_level = ((255 * batch).round().sum(1) > level).float()
        return torch.stack([1 - above_level, above_level], 1)

    counts = class_counts(above, x, Noise(5, 7, kind="grid"), Stream.ESTIMATION, sigma=sigma, n=n)
    sums = np.convolve(probability, probability)
    p = sums[np.arange(2 * k[0], 2 * k[-1] + 1) + 210 > level].sum()
    assert 2 * min(binom.cdf(counts[1], n, p), binom.sf(counts[1] - 1, n, p)) > CHANCE


def test_images_are_on_a_grid_by_their_values_alone() -> None:
    eight, digits = bytes_image(3, 16, 16), torch.arange(17) / 16
    assert grid_steps(eight, sigma=0.5) == 255
    assert grid_steps(torch.arange(256) / 255, sigma=0.5) == 255
    assert grid_steps(torch.arange(256, dtype=torch.float64) / 255, sigma=0.5) == 255
    assert grid_steps(digits, sigma=0.5) == 256
    near = eight.clone()
    near[1, 2, 3] = torch.nextafter(near[1, 2, 3], torch.tensor(2.0))
    elsewhere = [near, eight * 255 / 256 + 0.001, (eight - 0.45) / 0.22, torch.rand(5), eight.double(), eight.half()]
    assert [grid_steps(x, sigma=0.5) for x in elsewhere] == [None] * len(elsewhere)
    # Beyond exact sums, and where rounding would leave nothing of the noise.
    assert [grid_steps(x, sigma=s) for x, s in ((eight, 1e-4), (eight, 17.0), (2**17 * digits, 0.5))] == [None] * 3


def test_auto_noise_is_on_the_grid_where_there_is_one_and_float32_elsewhere() -> None:
    def shown(x: Tensor, kind: NoiseKind) -> Tensor:
        ((noisy, _),) = noisy_batches(x, Noise(5, 7, 20, kind=kind), Stream.PREDICTION, sigma=0.25, n=20)
        return noisy

    eight, other = bytes_image(3, 4, 4), torch.linspace(0, 1, 48).reshape(3, 4, 4)
    assert torch.equal(shown(eight, "auto"), shown(eight, "grid"))
    assert not torch.equal(shown(eight, "auto"), shown(eight, "float"))
    assert torch.equal(shown(other, "auto"), shown(other, "float"))
    with pytest.raises(ValueError, match=r"noise = 'grid' needs .* multiples of 1/255 or 1/256, .* largest is 1\)"):
        shown(other, "grid")
    assert GRIDS == (255, 256)


@pytest.mark.parametrize("kind", [np.float32, np.float64, float])
def test_sigma_may_be_a_number_of_numpy(kind: type[float]) -> None:
    result = rspipe.certify(comes_back, torch.tensor([1.0]), sigma=kind(0.25), n0=10, n=20)
    assert result.noise == "grid 1/255"


def comes_back(batch: Tensor) -> Tensor:
    """Class 1 where (z - 1) + 1 is z in float32, which it is where z came out as a sum of 1 and noise."""
    same = (batch - 1 + 1 == batch).flatten(1).all(1).to(torch.float32)
    return torch.stack([1 - same, same], dim=1)


def test_float_noise_certifies_a_false_radius_and_grid_noise_does_not() -> None:
    """The example of Voracek and Hein 2022: a classifier that sees from which point the noise was added."""
    sigma, (white, black) = 0.5, (torch.tensor([1.0]), torch.tensor([0.0]))
    one, other = (rspipe.certify(comes_back, x, sigma=sigma, n=10_000, noise="float") for x in (white, black))
    assert (one.prediction, other.prediction, one.noise) == (1, 0, "float")
    # Another class at distance 1, and so within a radius that is certain but for a chance of .001.
    assert one.radius > 1.26
    exact, opposite = (rspipe.certify(comes_back, x, sigma=sigma, n=10_000) for x in (white, black))
    assert (exact.prediction, opposite.prediction, exact.noise) == (1, 0, "grid 1/255")
    assert exact.radius + opposite.radius < 1


@pytest.mark.parametrize("sigma", [0.25, 0.5])
def test_cohens_theorem_holds_on_the_grid_for_a_classifier_that_uses_rounding(sigma: float) -> None:
    """ndtri of a class's probability never changes faster than the distance over sigma; checked at all 8-bit values."""
    k, probability = law(sigma, 255)
    at = (np.arange(256)[:, None] + k).astype(np.float32) / np.float32(255)
    of_one = comes_back(torch.from_numpy(at).reshape(-1, 1))[:, 1].numpy().reshape(at.shape) @ probability
    assert abs(np.diff(ndtri(of_one))).max() <= 1 / (255 * sigma)
    assert np.ptp(of_one) > 0.1
