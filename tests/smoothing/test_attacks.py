"""The attacks on the smoothed soft classifier, on models where the answer is known."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from torch import Tensor, nn

from rspipe.arrays import FloatArray
from rspipe.smoothing.attacks import fixed_step_path, projected, smoothed_pgd, warmed_up

# A deadline would fail on a busy machine.
many = settings(deadline=None, derandomize=True)


def linear(weights: list[list[float]], *, bias: float = 0.0) -> nn.Module:
    """A linear classifier in float64 with one row of weights per class."""
    rows = torch.tensor(weights, dtype=torch.float64)
    layer = nn.Linear(rows.shape[1], rows.shape[0]).double()
    with torch.no_grad():
        layer.weight.copy_(rows)
        layer.bias.fill_(bias)
    return layer


def attack(
    network: nn.Module, images: Tensor, labels: Tensor, noise: Tensor, *, eps: float, steps: int, seed: int = 0
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return smoothed_pgd(network, images, labels, noise, eps=eps, steps=steps, generator=generator)


def scene(seed: int, *, images: int = 4, copies: int = 3) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """A small random network with images in [0, 1], labels and noise."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3))
    pixels = torch.rand(images, 1, 4, 4, generator=generator)
    labels = torch.randint(0, 3, (images,), generator=generator)
    return network, pixels, labels, 0.5 * torch.randn(images, copies, 1, 4, 4, generator=generator)


def soft_loss(network: nn.Module, images: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
    """-log mean_j softmax(f(x + noise_j))_y of each image."""
    copies = [network(images + noise[:, j]).softmax(1) for j in range(noise.shape[1])]
    mean: Tensor = sum(copies) / len(copies)  # type: ignore[assignment]
    return -mean[torch.arange(len(labels)), labels].log()


@pytest.mark.parametrize("steps", [1, 2, 10])
@pytest.mark.parametrize("copies", [1, 4])
def test_on_a_linear_classifier_of_two_classes_it_moves_straight_to_the_other_class(steps: int, copies: int) -> None:
    network, eps = linear([[1.0, 2.0], [4.0, -2.0]]), 0.1
    images, labels = torch.full((2, 2), 0.5, dtype=torch.float64), torch.tensor([0, 1])
    noise = torch.randn(2, copies, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # The difference of the weights is (3, -4), of length 5.
    expected = images + eps * torch.tensor([[0.6, -0.8], [-0.6, 0.8]], dtype=torch.float64)
    torch.testing.assert_close(attack(network, images, labels, noise, eps=eps, steps=steps), expected)


def test_nothing_in_the_ball_is_worse_on_a_linear_classifier() -> None:
    generator = torch.Generator().manual_seed(1)
    network, eps = linear([[1.0, 2.0], [4.0, -2.0]]), 0.1
    images, labels = torch.full((1, 2), 0.5, dtype=torch.float64), torch.tensor([0])
    noise = torch.randn(1, 8, 2, generator=generator, dtype=torch.float64)
    reached = soft_loss(network, attack(network, images, labels, noise, eps=eps, steps=2), labels, noise)
    directions = torch.randn(200, 2, generator=generator, dtype=torch.float64)
    others = images + eps * directions / directions.norm(dim=1, keepdim=True)
    losses = soft_loss(network, others, labels.expand(200), noise.expand(200, -1, -1))
    assert bool((losses <= reached).all())


def test_a_step_follows_the_gradient_of_the_mean_probability_and_not_of_the_mean_loss() -> None:
    weights = np.array([[2.0, 0.0], [0.0, 3.0], [-1.0, -1.0]])
    image, noise, eps = np.array([0.5, 0.5]), np.array([[0.4, -1.0], [-0.9, 0.8]]), 0.1
    p = softmax((image + noise) @ weights.T, axis=1)
    toward_label = p[:, [0]] * (weights[0] - p @ weights)
    of_mean, mean_of = -toward_label.sum(0) / p[:, 0].sum(), -(toward_label / p[:, [0]]).mean(0)
    expected, other = (image + eps * g / np.linalg.norm(g) for g in (of_mean, mean_of))
    assert np.linalg.norm(expected - other) > 0.01
    adversarial = attack(
        linear(weights.tolist()),
        torch.from_numpy(image[None]),
        torch.tensor([0]),
        torch.from_numpy(noise[None]),
        eps=eps,
        steps=1,
    )
    np.testing.assert_allclose(adversarial[0].numpy(), expected, rtol=1e-12)


def test_a_step_has_length_two_eps_over_the_number_of_steps() -> None:
    network, seen = linear([[1.0, 2.0], [4.0, -2.0]]), []
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    images, noise = torch.full((1, 2), 0.5, dtype=torch.float64), torch.zeros(1, 1, 2, dtype=torch.float64)
    attack(network, images, torch.tensor([0]), noise, eps=0.1, steps=5)
    lengths = [float((inputs - images).norm()) for inputs in seen]
    assert lengths == pytest.approx([0.0, 0.04, 0.08, 0.1, 0.1])


def test_the_clip_to_the_unit_box_comes_before_the_projection_to_the_ball() -> None:
    network = linear([[0.0, 0.0], [0.6, 0.8]])
    image, noise = torch.tensor([[0.95, 0.5]], dtype=torch.float64), torch.zeros(1, 1, 2, dtype=torch.float64)
    adversarial = attack(network, image, torch.tensor([0]), noise, eps=0.2, steps=1)
    # The step (.24, .32) is cut to (.05, .32) by the box, and that is scaled to length .2.
    delta = 0.2 * np.array([0.05, 0.32]) / np.hypot(0.05, 0.32)
    np.testing.assert_allclose((adversarial - image)[0].numpy(), delta, rtol=1e-12)


@many
@given(
    seed=st.integers(0, 2**32),
    eps=st.floats(0.01, 10),
    steps=st.integers(1, 5),
    copies=st.integers(1, 3),
)
def test_adversarial_examples_lie_in_the_ball_and_in_the_unit_box(
    seed: int, eps: float, steps: int, copies: int
) -> None:
    network, images, labels, noise = scene(seed, copies=copies)
    adversarial = attack(network, images, labels, noise, eps=eps, steps=steps)
    # Rounding in float32 of each of 16 pixels.
    slack = 4 * torch.finfo(torch.float32).eps
    assert float((adversarial - images).flatten(1).norm(dim=1).max()) <= eps * (1 + slack) + 4 * slack
    assert -slack <= float(adversarial.min())
    assert float(adversarial.max()) <= 1 + slack


@pytest.mark.parametrize("copies", [1, 4])
def test_it_raises_the_loss_of_the_smoothed_classifier(copies: int) -> None:
    network, images, labels, noise = scene(2, images=50, copies=copies)
    adversarial = attack(network, images, labels, noise, eps=0.5, steps=5)
    with torch.no_grad():
        assert bool((soft_loss(network, adversarial, labels, noise) > soft_loss(network, images, labels, noise)).all())


def test_every_step_sees_the_noise_it_was_given_with_copies_of_an_image_side_by_side() -> None:
    network, images, labels, noise = scene(3)
    seen: list[Tensor] = []
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    attack(network, images, labels, noise, eps=0.5, steps=4)
    assert len(seen) == 4
    for inputs in seen:
        at = inputs.view(noise.shape) - noise
        torch.testing.assert_close(at, at[:, :1].expand_as(at), rtol=0, atol=1e-6)
    torch.testing.assert_close(seen[0].view(noise.shape) - noise, images.unsqueeze(1).expand_as(noise))


def test_an_image_is_attacked_alike_alone_and_in_a_batch() -> None:
    network, images, labels, noise = scene(4)
    together = attack(network, images, labels, noise, eps=0.5, steps=3)
    for i in range(len(images)):
        alone = attack(network, images[i : i + 1], labels[i : i + 1], noise[i : i + 1], eps=0.5, steps=3)
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-5)


def test_without_steps_the_images_come_back() -> None:
    network, images, labels, noise = scene(5)
    assert torch.equal(attack(network, images, labels, noise, eps=0.5, steps=0), images)


def test_with_a_ball_of_radius_zero_the_images_come_back() -> None:
    network, images, labels, noise = scene(6)
    assert torch.equal(attack(network, images, labels, noise, eps=0.0, steps=3), images)


def test_a_vanishing_gradient_is_replaced_by_noise_of_the_generator() -> None:
    network, images, labels, noise = scene(7)
    last = network[-1]  # type: ignore[index]
    nn.init.zeros_(last.weight)
    first, again, other = (attack(network, images, labels, noise, eps=0.3, steps=2, seed=s) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert bool(((first - images).flatten(1).norm(dim=1) > 0.1).all())
    assert not torch.equal(first, other)


class Dim(nn.Module):
    """Knows nothing of dark images: logits are 0 unless the first pixel exceeds a half."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = linear([[1.0, 2.0], [4.0, -2.0]])

    def forward(self, batch: Tensor) -> Tensor:
        logits: Tensor = self.linear(batch)
        return torch.where(batch[:, :1] > 0.5, logits, torch.zeros_like(logits))


def test_only_the_gradients_that_vanish_are_replaced_and_by_standard_noise_that_is_not_normalized() -> None:
    network, seen = Dim(), []
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    images = torch.tensor([[0.4, 0.5], [0.6, 0.5], [0.4, 0.6]], dtype=torch.float64)
    labels, noise = torch.tensor([0, 0, 1]), torch.zeros(3, 1, 2, dtype=torch.float64)
    attack(network, images, labels, noise, eps=1e-3, steps=100, seed=5)
    moved = seen[1] - images
    normal = torch.randn(3, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    step = 2e-3 / 100
    torch.testing.assert_close(moved[[0, 2]], step * normal[[0, 2]], rtol=1e-9, atol=0)
    torch.testing.assert_close(moved[1], step * torch.tensor([0.6, -0.8], dtype=torch.float64), rtol=1e-9, atol=0)


def test_images_with_a_gradient_use_no_noise_of_the_generator() -> None:
    network, images, labels, noise = scene(8)
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    smoothed_pgd(network, images, labels, noise, eps=0.3, steps=2, generator=generator)
    assert torch.equal(generator.get_state(), before)


def test_a_confidently_wrong_classifier_gives_no_nan() -> None:
    network = linear([[0.0, 0.0], [4000.0, 4000.0]])
    images, noise = torch.full((1, 2), 0.5, dtype=torch.float64), torch.zeros(1, 2, 2, dtype=torch.float64)
    assert bool(attack(network, images, torch.tensor([0]), noise, eps=0.1, steps=2).isfinite().all())


def test_one_noisy_copy_is_attacked_by_its_cross_entropy_and_several_by_a_loss_that_is_cut_off() -> None:
    # The label's probability is exp(-560): far below 1e-20, where only the cross-entropy has a gradient.
    network = linear([[0.0, 0.0], [480.0, 640.0]])
    images, labels = torch.full((1, 2), 0.5, dtype=torch.float64), torch.tensor([0])
    ahead = images + 0.1 * torch.tensor([[0.6, 0.8]], dtype=torch.float64)
    adversarial = [
        attack(network, images, labels, torch.zeros(1, copies, 2, dtype=torch.float64), eps=0.1, steps=1)
        for copies in (1, 2)
    ]
    torch.testing.assert_close(adversarial[0], ahead)
    assert float((adversarial[1] - ahead).norm()) > 1e-3


def unlimited(
    network: nn.Module, images: Tensor, labels: Tensor, noise: Tensor, *, eps: float, steps: int, seed: int = 0
) -> Tensor:
    """Where the steps of fixed length lead: an attack like `attack`, without its ball."""
    return fixed_step_path(network, images, labels, noise, step=eps, steps=steps)[-1]


def each_attack(test: Callable[..., None]) -> Callable[..., None]:
    both = [pytest.param(attack, id="smoothed_pgd"), pytest.param(unlimited, id="fixed_step_path")]
    decorated: Callable[..., None] = pytest.mark.parametrize("attack", both)(test)
    return decorated


@each_attack
def test_parameters_get_no_gradient_and_stay_trainable_or_frozen_as_they_were(attack: Any) -> None:
    network, images, labels, noise = scene(9)
    first, *rest = network.parameters()
    first.requires_grad_(False)
    adversarial = attack(network, images, labels, noise, eps=0.5, steps=2)
    assert not adversarial.requires_grad
    assert all(parameter.grad is None for parameter in network.parameters())
    assert [first.requires_grad, *(p.requires_grad for p in rest)] == [False, *[True] * len(rest)]


class Mode(nn.Module):
    """Passes its input on and remembers whether it was in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.modes: list[bool] = []

    def forward(self, batch: Tensor) -> Tensor:
        self.modes.append(self.training)
        return batch


@each_attack
def test_the_network_runs_in_eval_mode(attack: Any) -> None:
    network, images, labels, noise = scene(10)
    mode = Mode()
    attack(nn.Sequential(mode, network).train(), images, labels, noise, eps=0.5, steps=2)
    assert mode.modes == [False, False]


@each_attack
def test_statistics_of_batch_normalization_are_left_as_they_were(attack: Any) -> None:
    network, images, labels, noise = scene(14)
    norm = nn.BatchNorm2d(1)
    norm(torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(0)))
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    attack(nn.Sequential(norm, network).train(), images, labels, noise, eps=0.5, steps=2)
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())


@each_attack
def test_every_module_keeps_its_own_mode(attack: Any) -> None:
    network, images, labels, noise = scene(11)
    mode = Mode()
    whole = nn.Sequential(mode, network).train()
    mode.eval()
    attack(whole, images, labels, noise, eps=0.5, steps=2)
    assert [module.training for module in whole.modules()] == [m is not mode for m in whole.modules()]


@each_attack
def test_a_failure_leaves_the_network_as_it_was(attack: Any) -> None:
    network, images, labels, noise = scene(12)
    network.train()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        attack(network, images[..., :2], labels, noise[..., :2], eps=0.5, steps=2)
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())


@each_attack
def test_images_and_noise_are_left_as_they_were(attack: Any) -> None:
    network, images, labels, noise = scene(13)
    before = images.clone(), noise.clone()
    attack(network, images, labels, noise, eps=0.5, steps=2)
    assert torch.equal(images, before[0])
    assert torch.equal(noise, before[1])


@pytest.mark.parametrize(
    ("epoch", "warmup", "expected"),
    [(0, 10, 0.2), (1, 10, 0.4), (8, 10, 1.8), (9, 10, 2.0), (10, 10, 2.0), (500, 10, 2.0), (0, 1, 2.0), (0, 0, 2.0)],
)
def test_the_radius_warms_up_linearly_from_the_first_epoch(epoch: int, warmup: int, expected: float) -> None:
    assert warmed_up(2.0, epoch=epoch, warmup=warmup) == pytest.approx(expected)


def by_hand(
    weights: FloatArray,
    image: FloatArray,
    label: int,
    noise: FloatArray,
    *,
    step: float,
    steps: int,
    radius: float | None,
) -> list[FloatArray]:
    """The path of one image on a linear classifier, from the gradient in closed form."""
    path = [image]
    for _ in range(steps):
        p = softmax((path[-1] + noise) @ weights.T, axis=1)
        gradient = -(p[:, [label]] * (weights[label] - p @ weights)).sum(0) / p[:, label].sum()
        delta = path[-1] + step * gradient / (np.linalg.norm(gradient) + 1e-8) - image
        if radius is not None:
            delta *= min(1.0, radius / np.linalg.norm(delta))
        path.append(np.clip(image + delta, 0, 1))
    return path


@many
@given(
    seed=st.integers(0, 2**32),
    copies=st.integers(1, 4),
    step=st.floats(0.01, 1),
    steps=st.integers(1, 5),
    radius=st.none() | st.floats(0.01, 1),
)
def test_the_path_of_fixed_steps_is_that_of_its_definition(
    seed: int, copies: int, step: float, steps: int, radius: float | None
) -> None:
    rng = np.random.default_rng(seed)
    weights, images = rng.normal(size=(3, 6)), rng.uniform(size=(4, 6))
    labels, noise = rng.integers(0, 3, 4), 0.5 * rng.normal(size=(4, copies, 6))
    path = fixed_step_path(
        linear(weights.tolist()),
        torch.from_numpy(images),
        torch.from_numpy(labels),
        torch.from_numpy(noise),
        step=step,
        steps=steps,
        radius=radius,
    )
    for i, label in enumerate(labels.tolist()):
        expected = by_hand(weights, images[i], label, noise[i], step=step, steps=steps, radius=radius)
        np.testing.assert_allclose(torch.stack(path)[:, i].numpy(), np.stack(expected), rtol=1e-7, atol=1e-9)


PLAIN = torch.full((1, 2), 0.5, dtype=torch.float64), torch.tensor([0]), torch.zeros(1, 1, 2, dtype=torch.float64)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_fixed_step_has_the_length_given_whatever_the_number_of_steps(steps: int) -> None:
    path = torch.cat(fixed_step_path(linear([[1.0, 2.0], [4.0, -2.0]]), *PLAIN, step=0.05, steps=steps))
    assert path.diff(dim=0).norm(dim=1).tolist() == pytest.approx([0.05] * steps)


def test_a_path_of_fixed_steps_holds_the_images_and_every_state() -> None:
    network, images, labels, noise = scene(15)
    path = fixed_step_path(network, images, labels, noise, step=0.1, steps=3)
    assert len(path) == 4
    assert torch.equal(path[0], images)
    assert torch.equal(path[2], fixed_step_path(network, images, labels, noise, step=0.1, steps=2)[-1])


@pytest.mark.parametrize(("averaged_over", "length"), [(1, 1 / 2), (4, 1 / 5), (64, 1 / 65)])
def test_fixed_steps_are_divided_by_the_norm_of_the_gradient_plus_1e_8(averaged_over: int, length: float) -> None:
    # p_1 = exp(-bias) to first order, and the gradient p_1 (3, -4) has length 1e-8.
    network = linear([[1.0, 2.0], [4.0, -2.0]])
    bias = np.log(5e8) + np.array([1.0, 2.0]) @ [-0.5, -0.5] - np.array([4.0, -2.0]) @ [-0.5, -0.5]
    with torch.no_grad():
        network.bias.copy_(torch.tensor([bias, 0.0]))  # type: ignore[operator]
    path = torch.cat(fixed_step_path(network, *PLAIN, step=0.1, steps=1, averaged_over=averaged_over))
    expected = 0.1 * length * np.array([0.6, -0.8])
    np.testing.assert_allclose((path[1] - path[0]).numpy(), expected, rtol=1e-6)


def test_fixed_steps_leave_an_image_without_gradient_where_it_is() -> None:
    network, images, labels, noise = scene(7)
    last = network[-1]  # type: ignore[index]
    nn.init.zeros_(last.weight)
    assert torch.equal(unlimited(network, images, labels, noise, eps=0.3, steps=2), images)


def test_fixed_steps_lead_as_far_as_they_like_without_a_ball() -> None:
    network = linear([[0.0, 0.0], [1.0, 0.0]])
    image = torch.tensor([[0.1, 0.5]], dtype=torch.float64)
    path = torch.cat(fixed_step_path(network, image, *PLAIN[1:], step=0.2, steps=4))
    np.testing.assert_allclose(path[:, 0].numpy(), [0.1, 0.3, 0.5, 0.7, 0.9], rtol=1e-7)


def test_every_fixed_step_is_clipped_to_the_unit_box() -> None:
    network, images, labels, noise = scene(16)
    path = torch.stack(fixed_step_path(network, images, labels, noise, step=2.0, steps=3))
    assert bool(((path >= 0) & (path <= 1)).all())
    assert bool(((path[1] == 0) | (path[1] == 1)).any())


def test_the_projection_to_the_ball_of_fixed_steps_comes_before_the_clip_to_the_unit_box() -> None:
    network = linear([[0.0, 0.0], [0.6, 0.8]])
    image = torch.tensor([[0.95, 0.5]], dtype=torch.float64)
    adversarial = fixed_step_path(network, image, *PLAIN[1:], step=0.4, steps=1, radius=0.2)[-1]
    # The step (.24, .32) is scaled to (.12, .16), and that is cut to (.05, .16) by the box.
    np.testing.assert_allclose((adversarial - image)[0].numpy(), [0.05, 0.16], rtol=1e-7)


@many
@given(seed=st.integers(0, 2**32), radius=st.floats(0.01, 3))
def test_projected_points_lie_in_the_ball_and_the_box_and_those_inside_stay(seed: int, radius: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(20, 3, 3, generator=generator, dtype=torch.float64)
    points = images + 0.5 * torch.randn(20, 3, 3, generator=generator, dtype=torch.float64)
    inside = projected(points, images, radius=radius)
    assert float((inside - images).flatten(1).norm(dim=1).max()) <= radius * (1 + 1e-12)
    assert bool(((inside >= 0) & (inside <= 1)).all())
    torch.testing.assert_close(projected(inside, images, radius=radius), inside, rtol=0, atol=1e-12)


def test_points_projected_to_a_ball_of_radius_zero_are_the_images() -> None:
    _, images, _, _ = scene(17)
    assert torch.equal(projected(images, images, radius=0.0), images)
    torch.testing.assert_close(projected(images + 0.1, images, radius=0.0), images, rtol=0, atol=0)


def test_fixed_steps_of_a_confidently_wrong_classifier_give_no_nan() -> None:
    network = linear([[0.0, 0.0], [4000.0, 4000.0]])
    assert bool(torch.cat(fixed_step_path(network, *PLAIN, step=0.1, steps=2)).isfinite().all())
