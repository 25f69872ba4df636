"""Noise and shifts in training: what is drawn, and from which generator."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from rspipe.smoothing.noise import noisy_logits
from rspipe.training.methods.method import noisy_batch
from rspipe.training.methods.smoothadv import SmoothAdv
from rspipe.training.randomness import Draws, crop_flip, gaussian_noise


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draws(generator: torch.Generator) -> Draws:
    return Draws(generator, generator)


def pictures(count: int, *, channels: int = 2, height: int = 6, width: int = 5) -> Tensor:
    """Images in (0, 1] in which every pixel of every image is different."""
    size = count * channels * height * width
    return (torch.arange(1, size + 1) / size).view(count, channels, height, width)


def shifted(image: Tensor, down: int, right: int, *, padding: int, flip: bool) -> Tensor:
    """The image moved down and right with zeros behind it, then mirrored; pixel by pixel."""
    moved = torch.zeros_like(image)
    _, height, width = image.shape
    for row, column in itertools.product(range(height), range(width)):
        source = row - down, column - right
        if 0 <= source[0] < height and 0 <= source[1] < width:
            moved[:, row, width - 1 - column if flip else column] = image[:, source[0], source[1]]
    return moved


def test_noise_has_the_variance_asked_for_and_no_mean() -> None:
    n = 400_000
    noise = gaussian_noise(torch.zeros(n // 4, 1), sigma=0.5, copies=4, draws=draws(seeded())).double()
    # Five standard errors of the mean and of the variance.
    assert abs(float(noise.mean())) < 5 * 0.5 / n**0.5
    assert abs(float(noise.var()) - 0.25) < 5 * 0.25 * (2 / n) ** 0.5


def test_noise_of_an_image_differs_between_its_copies_and_between_images() -> None:
    noise = gaussian_noise(torch.zeros(3, 1, 4, 4), sigma=1.0, copies=5, draws=draws(seeded()))
    assert noise.shape == (3, 5, 1, 4, 4)
    assert len(noise.flatten().unique()) == noise.numel()


def test_noise_is_proportional_to_sigma() -> None:
    one, two = (gaussian_noise(torch.zeros(3, 4), sigma=s, copies=2, draws=draws(seeded())) for s in (1.0, 2.0))
    assert torch.equal(two, 2 * one)


def test_noise_depends_on_its_generator_alone() -> None:
    torch.manual_seed(0)
    first = gaussian_noise(torch.zeros(3, 4), sigma=1.0, copies=2, draws=draws(seeded()))
    torch.manual_seed(1)
    assert torch.equal(gaussian_noise(torch.zeros(3, 4), sigma=1.0, copies=2, draws=draws(seeded())), first)
    assert not torch.equal(gaussian_noise(torch.zeros(3, 4), sigma=1.0, copies=2, draws=draws(seeded(1))), first)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_has_the_type_of_the_images(dtype: torch.dtype) -> None:
    assert gaussian_noise(torch.zeros(2, 3, dtype=dtype), sigma=1.0, copies=2, draws=draws(seeded())).dtype == dtype


def test_noisy_logits_are_those_of_each_image_plus_each_of_its_noise_vectors() -> None:
    images, network = pictures(3).double(), nn.Sequential(nn.Flatten(), nn.Linear(60, 4)).double()
    noise = gaussian_noise(images, sigma=0.5, copies=2, draws=draws(seeded()))
    logits = noisy_logits(network, images, noise)
    assert logits.shape == (3, 2, 4)
    for i, j in itertools.product(range(3), range(2)):
        torch.testing.assert_close(logits[i, j], network((images[i] + noise[i, j])[None])[0])


def test_noisy_images_are_not_clipped() -> None:
    seen: list[Tensor] = []
    network = nn.Flatten()
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images, noise = torch.ones(1, 1, 2, 2), torch.full((1, 1, 1, 2, 2), 3.0)
    noisy_logits(network, images, noise)
    assert torch.equal(seen[0], torch.full((1, 1, 2, 2), 4.0))


@pytest.mark.parametrize("padding", [0, 1, 2])
def test_an_augmented_image_is_itself_moved_by_at_most_the_padding_and_perhaps_mirrored(padding: int) -> None:
    images = pictures(40)
    shifts = range(-padding, padding + 1)
    for image, cropped in zip(images, crop_flip(images, generator=seeded(), padding=padding), strict=True):
        candidates = (
            shifted(image, down, right, padding=padding, flip=flip)
            for down, right, flip in itertools.product(shifts, shifts, (False, True))
        )
        assert any(torch.equal(cropped, candidate) for candidate in candidates)


def test_all_shifts_and_both_mirror_images_are_equally_likely() -> None:
    n, padding = 9000, 1
    image = pictures(1, channels=1, height=4, width=4)
    cropped = crop_flip(image.expand(n, -1, -1, -1), generator=seeded(), padding=padding)
    counts = [
        int((cropped == shifted(image[0], down, right, padding=padding, flip=flip)).flatten(1).all(1).sum())
        for down, right, flip in itertools.product((-1, 0, 1), (-1, 0, 1), (False, True))
    ]
    assert sum(counts) == n
    # 18 cases of probability 1 / 18, each within five standard deviations.
    spread = 5 * (n * 17 / 18**2) ** 0.5
    assert all(abs(count - n / 18) < spread for count in counts)


def test_the_default_padding_is_four_as_for_cifar() -> None:
    cropped = crop_flip(torch.ones(500, 1, 8, 8), generator=seeded())
    blank_rows = (cropped.flatten(1, 2).sum(2) == 0).sum(1)
    assert int(blank_rows.max()) == 4


def test_augmentation_keeps_shape_type_and_range() -> None:
    images = torch.rand(50, 3, 32, 32, generator=seeded())
    cropped = crop_flip(images, generator=seeded())
    assert (cropped.shape, cropped.dtype) == (images.shape, images.dtype)
    assert 0 <= float(cropped.min()) <= float(cropped.max()) <= 1


def test_augmentation_depends_on_its_generator_alone() -> None:
    images = pictures(20)
    torch.manual_seed(0)
    first = crop_flip(images, generator=seeded())
    torch.manual_seed(1)
    assert torch.equal(crop_flip(images, generator=seeded()), first)
    assert not torch.equal(crop_flip(images, generator=seeded(1)), first)


def test_augmentation_leaves_its_images_as_they_were() -> None:
    images = pictures(20)
    crop_flip(images, generator=seeded())
    assert torch.equal(images, pictures(20))


def test_processes_draw_for_their_images_what_one_process_draws_for_all() -> None:
    images = pictures(7)
    alone = draws(seeded())
    noise, shares = alone.normal(images, copies=3), alone.uniform(images)
    for own in (slice(0, 3), slice(3, 5), slice(5, 7)):
        part = Draws(seeded(), seeded(1), before=own.start, after=7 - own.stop)
        assert torch.equal(part.normal(images[own], copies=3), noise[own])
        assert torch.equal(part.uniform(images[own]), shares[own])
        assert torch.equal(part.generator.get_state(), alone.generator.get_state())


def test_a_vanished_gradient_moves_no_generator_that_other_processes_have_in_common() -> None:
    images, labels = pictures(4), torch.zeros(4, dtype=torch.int64)
    blind = nn.Sequential(nn.Flatten(), nn.Linear(60, 2))
    nn.init.zeros_(blind[1].weight)
    method = SmoothAdv(name="smoothadv", T=2, m=2, eps=0.5, warmup=0)
    part = Draws(seeded(), seeded(1), before=2, after=1)
    method.loss(blind, noisy_batch(images, labels, copies=2, sigma=0.5, epoch=0, draws=part))
    noise_alone = Draws(seeded(), seeded(1), before=2, after=1)
    noise_alone.normal(images, copies=2)
    assert torch.equal(part.generator.get_state(), noise_alone.generator.get_state())
    assert not torch.equal(part.own.get_state(), noise_alone.own.get_state())
