"""The losses of the training methods against their formulas, evaluated independently in float64."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from scipy.special import log_softmax, softmax
from scipy.stats import norm
from torch import Tensor, nn

from rspipe import macer_loss
from rspipe.arrays import FloatArray
from rspipe.training.methods import MethodSpec
from rspipe.training.methods.acr_weakness import ACRWeakness
from rspipe.training.methods.advmacer import AdvMacer
from rspipe.training.methods.catrs import CATRS
from rspipe.training.methods.consistency import Consistency
from rspipe.training.methods.gaussian import Gaussian
from rspipe.training.methods.macer import MACER
from rspipe.training.methods.method import Method, noisy_batch
from rspipe.training.methods.smoothadv import SmoothAdv
from rspipe.training.methods.smoothadv_consistency import SmoothAdvConsistency
from rspipe.training.methods.smoothmix import SmoothMix
from rspipe.training.methods.stability import Stability
from rspipe.training.randomness import Draws
from rspipe.training.spec import TrainingSpec

SIGMA = 0.5
# A deadline would fail on a busy machine.
many = settings(deadline=None, derandomize=True)
METHODS: tuple[Any, ...] = (
    Gaussian(name="gaussian"),
    SmoothAdv(name="smoothadv", T=2, m=3, eps=0.1),
    MACER(name="macer", lbd=2.0, gamma=6.0, beta=2.0, m=3),
    AdvMacer(name="advmacer", lbd=2.0, gamma=6.0, beta=2.0, T=2, m=3, eps=0.1),
    Stability(name="stability"),
    Consistency(name="consistency", m=3),
    SmoothAdvConsistency(name="smoothadv_consistency", T=2, m=3, eps=0.1),
    SmoothMix(name="smoothmix", T=2, m=3, alpha=0.1, mix_step=1),
)
WITH_BALL = (METHODS[1], METHODS[3], METHODS[6])


def each_method(test: Callable[..., None]) -> Callable[..., None]:
    decorated: Callable[..., None] = pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)(test)
    return decorated


def reference(
    logits: Tensor, labels: Tensor, *, sigma: float, lbd: float, gamma: float, beta: float
) -> tuple[float, FloatArray]:
    """MACER's loss and its gradient, image by image as the paper writes them."""
    u, size = logits.double().numpy(), len(labels)
    loss, gradient = 0.0, np.zeros(u.shape)
    copies = u.shape[1]
    for i, y in enumerate(labels.tolist()):
        p = softmax(u[i], axis=-1)
        q = p.mean(0)
        loss -= np.log(q[y] + 1e-10) / size
        slope = p[:, [y]] * (np.eye(u.shape[2])[y] - p) / copies
        gradient[i] -= slope / (q[y] + 1e-10) / size
        s = softmax(beta * u[i], axis=-1)
        z = s.mean(0)
        second, first = np.argsort(z)[-2:]
        xi = norm.ppf(z[first]) - norm.ppf(z[second])
        if first == y and np.isfinite(xi) and xi <= gamma:
            loss += lbd * sigma / 2 * (gamma - xi) / size
            for c, sign in ((first, -1), (second, 1)):
                slope = beta * s[:, [c]] * (np.eye(u.shape[2])[c] - s) / copies
                gradient[i] += sign * lbd * sigma / 2 * slope / norm.pdf(norm.ppf(z[c])) / size
    return loss, gradient


def one_copy(*rows: tuple[float, ...]) -> Tensor:
    """Logits [row, 1, class] whose softmax is each row."""
    return torch.tensor(rows, dtype=torch.float64).log().unsqueeze(1)


def margin(first: float, second: float) -> float:
    return float(norm.ppf(first) - norm.ppf(second))


def robustness(logits: Tensor, labels: list[int], **parameters: float) -> float:
    """The second term of the loss with lambda sigma / 2 = 1."""
    parameters = {"gamma": 8.0, "beta": 1.0, **parameters}
    on, off = (macer_loss(logits, torch.tensor(labels), sigma=2.0, lbd=lbd, **parameters) for lbd in (1.0, 0.0))
    return float(on - off)


@many
@given(
    seed=st.integers(0, 2**32),
    shape=st.tuples(st.integers(1, 6), st.integers(1, 5), st.integers(2, 6)),
    scale=st.floats(0.01, 5),
    parameters=st.fixed_dictionaries(
        {"sigma": st.floats(0.1, 2), "lbd": st.floats(0, 20), "gamma": st.floats(0.5, 8), "beta": st.floats(0.5, 16)}
    ),
)
def test_loss_and_gradient_are_the_formula(
    seed: int, shape: tuple[int, int, int], scale: float, parameters: dict[str, float]
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, shape[2], shape[:1], generator=generator)
    z = softmax(parameters["beta"] * logits.numpy(), axis=2).mean(1)
    top = np.sort(z, axis=1)
    # At a tie either class is the top one.
    assume(bool(np.all(top[:, -1] - top[:, -2] > 1e-6)))
    expected, slope = reference(logits, labels, **parameters)  # type: ignore[arg-type]
    logits.requires_grad_(True)
    loss = macer_loss(logits, labels, **parameters)  # type: ignore[arg-type]
    (gradient,) = torch.autograd.grad(loss, logits)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-9)
    np.testing.assert_allclose(gradient.numpy(), slope, rtol=1e-7, atol=1e-9)


def test_the_gradient_agrees_with_central_differences() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(4, 3, 5, generator=generator, dtype=torch.float64).requires_grad_(True)
    labels = logits.detach().mean(1).argmax(1)
    assert torch.autograd.gradcheck(lambda u: macer_loss(u, labels, sigma=0.5, lbd=3.0, beta=2.0), logits)


def test_the_margin_is_the_difference_of_normal_quantiles_of_the_two_largest_probabilities() -> None:
    assert robustness(one_copy((0.2, 0.7, 0.1)), [1]) == pytest.approx(8 - margin(0.7, 0.2))


def test_the_hinge_holds_correctly_predicted_images_only() -> None:
    logits = one_copy((0.7, 0.2, 0.1), (0.7, 0.2, 0.1))
    assert robustness(logits, [0, 1]) == pytest.approx((8 - margin(0.7, 0.2)) / 2)


def test_the_hinge_is_divided_by_the_batch_and_not_by_the_images_in_it() -> None:
    logits = one_copy(*[(0.7, 0.2, 0.1)] * 4)
    assert robustness(logits, [0, 1, 2, 1]) == pytest.approx((8 - margin(0.7, 0.2)) / 4)


def test_an_image_with_a_margin_above_gamma_is_left_out() -> None:
    wide, narrow = (0.99, 0.006, 0.004), (0.6, 0.3, 0.1)
    gamma = 2.0
    assert margin(*wide[:2]) > gamma > margin(*narrow[:2])
    assert robustness(one_copy(wide, narrow), [0, 0], gamma=gamma) == pytest.approx((gamma - margin(0.6, 0.3)) / 2)


def test_the_robustness_term_is_never_negative() -> None:
    assert robustness(one_copy((0.99, 0.006, 0.004)), [0], gamma=1.0) == 0


def test_the_margin_is_weighted_by_lambda_and_half_of_sigma() -> None:
    logits, labels = one_copy((0.7, 0.2, 0.1)), torch.tensor([0])
    loss = macer_loss(logits, labels, sigma=0.25, lbd=12.0, gamma=8.0, beta=1.0)
    assert float(loss) == pytest.approx(-np.log(0.7 + 1e-10) + 12 * 0.125 * (8 - margin(0.7, 0.2)))


def test_probabilities_and_not_logits_are_averaged_over_the_noise() -> None:
    logits = torch.tensor([[[0.9, 0.1], [0.5, 0.5]]], dtype=torch.float64).log()
    assert robustness(logits, [0]) == pytest.approx(8 - margin(0.7, 0.3))


def test_beta_scales_the_logits_inside_the_softmax() -> None:
    squared = (0.49 / 0.54, 0.04 / 0.54)
    assert robustness(one_copy((0.7, 0.2, 0.1)), [0], beta=2.0) == pytest.approx(8 - margin(*squared))


def test_beta_and_gamma_leave_the_cross_entropy_alone() -> None:
    logits, labels = one_copy((0.7, 0.2, 0.1), (0.2, 0.3, 0.5)), torch.tensor([0, 0])
    losses = {
        float(macer_loss(logits, labels, sigma=SIGMA, lbd=0.0, beta=beta, gamma=gamma))
        for beta in (1.0, 16.0)
        for gamma in (1.0, 8.0)
    }
    assert list(losses) == pytest.approx([-(np.log(0.7) + np.log(0.2)) / 2])


def test_a_label_without_probability_costs_no_more_than_the_clamp() -> None:
    loss = macer_loss(torch.tensor([[[0.0, -1e4]]]), torch.tensor([1]), sigma=SIGMA)
    assert float(loss) == pytest.approx(-np.log(1e-10))


def test_a_saturated_image_has_neither_hinge_nor_gradient() -> None:
    logits = torch.tensor([[[50.0, -50.0]], [[0.1, 0.0]]], requires_grad=True)
    loss = macer_loss(logits, torch.tensor([0, 0]), sigma=SIGMA)
    loss.backward()
    assert bool(loss.isfinite())
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())
    # What is left of the cross-entropy is exp(-100).
    assert float(logits.grad[0].abs().max()) < 1e-40
    assert bool((logits.grad[1] != 0).all())


def test_without_any_correct_image_the_gradient_is_that_of_the_cross_entropy() -> None:
    logits, labels = one_copy((0.7, 0.2, 0.1), (0.7, 0.2, 0.1)).requires_grad_(True), torch.tensor([1, 2])
    (gradient,) = torch.autograd.grad(macer_loss(logits, labels, sigma=SIGMA), logits)
    expected = (np.array([[0.7, 0.2, 0.1]] * 2) - np.eye(3)[[1, 2]]) / 2
    np.testing.assert_allclose(gradient[:, 0].numpy(), expected, rtol=1e-7)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ((4, 3), (4,), r"\[batch, noise, class >= 2\], got \(4, 3\)"),
        ((4, 2, 1), (4,), r"\[batch, noise, class >= 2\], got \(4, 2, 1\)"),
        ((4, 2, 3), (3,), r"labels must have shape \[4\], got \(3,\)"),
        ((4, 2, 3), (4, 1), r"labels must have shape \[4\], got \(4, 1\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(logits: tuple[int, ...], labels: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        macer_loss(torch.zeros(logits), torch.zeros(labels, dtype=torch.int64), sigma=SIGMA)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["sigma", "gamma", "beta"])
def test_parameters_that_must_be_positive_are_refused_otherwise(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be positive, got {value}"):
        macer_loss(torch.zeros(1, 1, 2), torch.zeros(1, dtype=torch.int64), **{"sigma": SIGMA, name: value})


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_a_negative_lambda_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=f"lbd must not be negative, got {value}"):
        macer_loss(torch.zeros(1, 1, 2), torch.zeros(1, dtype=torch.int64), sigma=SIGMA, lbd=value)


class Recorder(nn.Module):
    """A small network with a curved loss surface that remembers its inputs and its logits."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 4))
            self.net[1].weight.data *= 2
            self.net[3].weight.data *= 4
        self.seen: list[Tensor] = []
        self.returned: list[Tensor] = []

    def forward(self, batch: Tensor) -> Tensor:
        logits: Tensor = self.net(batch)
        self.seen.append(batch.detach())
        self.returned.append(logits.detach())
        return logits


def batch() -> tuple[Tensor, Tensor]:
    """Five images away from the ends of [0, 1], with labels; every other one is classified correctly."""
    images = 0.5 + 0.1 * torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(7))
    classes = Recorder()(images).argmax(1)
    return images, torch.where(torch.arange(5) % 2 == 0, classes, (classes + 1) % 4)


def run(method: Any, network: nn.Module, *, epoch: int = 50) -> Any:
    """The method's loss of the batch, in the precision of the network."""
    images, labels = batch()
    images = images.to(next(network.parameters()).dtype)
    generator = torch.Generator().manual_seed(11)
    draws = Draws(generator, generator)
    return loss_of(method, network, images, labels, epoch=epoch, draws=draws)


def loss_of(method: Any, network: nn.Module, images: Tensor, labels: Tensor, *, epoch: int, draws: Draws) -> Any:
    return method.loss(
        network, noisy_batch(images, labels, copies=method.copies, sigma=SIGMA, epoch=epoch, draws=draws)
    )


def copies_of(seen: Tensor, copies: int) -> Tensor:
    return seen.view(-1, copies, *seen.shape[1:])


def test_gaussian_is_the_cross_entropy_of_one_noisy_copy() -> None:
    network = Recorder()
    terms = run(METHODS[0], network)
    (seen,), (logits,) = network.seen, network.returned
    images, labels = batch()
    expected = -log_softmax(logits.double().numpy(), axis=1)[np.arange(5), labels.numpy()].mean()
    assert float(terms.loss.detach()) == pytest.approx(expected, rel=1e-6)
    noise = SIGMA * torch.randn(5, 1, 1, 4, 4, generator=torch.Generator().manual_seed(11))
    assert torch.equal(seen, images + noise[:, 0])


def test_smoothadv_is_the_cross_entropy_of_all_noisy_copies_of_the_adversarial_example() -> None:
    network = Recorder()
    terms = run(METHODS[1], network)
    labels = batch()[1].repeat_interleave(3).numpy()
    expected = -log_softmax(network.returned[-1].double().numpy(), axis=1)[np.arange(15), labels].mean()
    assert float(terms.loss.detach()) == pytest.approx(expected, rel=1e-6)


def test_macer_is_its_loss_at_noisy_copies_of_the_images() -> None:
    network = Recorder()
    terms = run(METHODS[2], network)
    (logits,) = network.returned
    expected, _ = reference(copies_of(logits, 3), batch()[1], sigma=SIGMA, lbd=2.0, gamma=6.0, beta=2.0)
    assert float(terms.parts["robustness"]) > 0
    assert float(terms.loss.detach()) == pytest.approx(expected, rel=1e-5)


def test_advmacer_is_the_loss_of_macer_at_noisy_copies_of_the_adversarial_example() -> None:
    network = Recorder()
    terms = run(METHODS[3], network)
    expected, _ = reference(copies_of(network.returned[-1], 3), batch()[1], sigma=SIGMA, lbd=2.0, gamma=6.0, beta=2.0)
    assert float(terms.parts["robustness"]) > 0
    assert float(terms.loss.detach()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("method", WITH_BALL, ids=lambda m: m.name)
def test_attack_and_training_step_see_the_same_noise(method: Any) -> None:
    network = Recorder()
    run(method, network)
    images, _ = batch()
    assert len(network.seen) == method.T + 1
    first, last = copies_of(network.seen[0], 3), copies_of(network.seen[-1], 3)
    moved = last - first
    # One displacement per image, the same for all of its copies: the noise is that of the first step.
    torch.testing.assert_close(moved, moved[:, :1].expand_as(moved), rtol=0, atol=1e-6)
    assert float((first - images.unsqueeze(1)).std()) == pytest.approx(SIGMA, rel=0.2)


@pytest.mark.parametrize("method", WITH_BALL, ids=lambda m: m.name)
@pytest.mark.parametrize(("epoch", "share"), [(0, 0.1), (4, 0.5), (9, 1.0), (30, 1.0)])
def test_the_attack_grows_over_the_first_ten_epochs(method: Any, epoch: int, share: float) -> None:
    network = Recorder()
    run(method, network, epoch=epoch)
    moved = (copies_of(network.seen[-1], 3) - copies_of(network.seen[0], 3))[:, 0].flatten(1).norm(dim=1)
    # A first step of 2 eps / T = eps in a nearly constant direction ends on the ball.
    assert float(moved.max()) <= share * method.eps * (1 + 1e-5)
    torch.testing.assert_close(moved, torch.full_like(moved, share * method.eps), rtol=0.05, atol=0)


@pytest.mark.parametrize("method", METHODS[2:4], ids=lambda m: m.name)
def test_lambda_is_deferred_until_its_epoch(method: Any) -> None:
    deferred = method.model_copy(update={"defer": 40})
    before, after = (run(deferred, Recorder(), epoch=epoch).parts["robustness"] for epoch in (39, 40))
    assert float(before) == 0 < float(after)


@each_method
def test_the_parts_of_a_loss_add_up(method: Any) -> None:
    terms = run(method, Recorder())
    assert float(terms.loss.detach()) == pytest.approx(sum(float(part) for part in terms.parts.values()), rel=1e-6)


@each_method
def test_the_gradient_reaches_every_parameter(method: Any) -> None:
    network = Recorder().train()
    run(method, network).loss.backward()
    for parameter in network.parameters():
        assert parameter.grad is not None
        assert bool(parameter.grad.isfinite().all())
        assert bool((parameter.grad != 0).any())


def slope_of_the_logits(method: Any, logits: Tensor, labels: Tensor) -> Tensor:
    """The gradient of a method's loss with respect to its logits [images, noise, class], by its formula."""
    if method.name in ("macer", "advmacer"):
        _, slope = reference(logits, labels, sigma=SIGMA, lbd=method.lbd, gamma=method.gamma, beta=method.beta)
        return torch.from_numpy(slope)
    p = softmax(logits.numpy(), axis=2)
    return torch.from_numpy((p - np.eye(p.shape[2])[labels.numpy()][:, None]) / (p.shape[0] * p.shape[1]))


@pytest.mark.parametrize("method", METHODS[:4], ids=lambda m: m.name)
def test_the_gradient_is_that_of_the_formula_at_inputs_that_are_held_fixed(method: Any) -> None:
    network = Recorder().double()
    run(method, network).loss.backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in network.parameters() if parameter.grad is not None])
    inputs, labels = network.seen[-1], batch()[1]
    logits = network(inputs)
    slope = slope_of_the_logits(method, logits.detach().view(5, -1, 4), labels)
    expected = torch.autograd.grad(logits, list(network.parameters()), slope.flatten(0, 1))
    torch.testing.assert_close(gradient, torch.cat([g.flatten() for g in expected]), rtol=1e-7, atol=1e-10)


@each_method
def test_batch_normalization_sees_the_training_passes_and_not_the_attack(method: Any) -> None:
    norm, seen = nn.BatchNorm2d(1), []
    network = nn.Sequential(norm, Recorder()).train()
    norm.register_forward_pre_hook(lambda module, inputs: seen.append((module.training, inputs[0].detach())))
    run(method, network)
    training = 2 if method.name in ("stability", "smoothmix") else 1
    assert [mode for mode, _ in seen] == [False] * (len(seen) - training) + [True] * training
    assert int(norm.num_batches_tracked or 0) == training
    mean = 0.0
    for _, inputs in seen[-training:]:
        mean += 0.1 * (float(inputs.mean()) - mean)
    assert float(norm.running_mean or 0) == pytest.approx(mean, rel=1e-5)


@each_method
def test_a_loss_leaves_the_network_in_training_mode_with_trainable_parameters(method: Any) -> None:
    network = Recorder().train()
    run(method, network)
    assert all(module.training for module in network.modules())
    assert all(parameter.requires_grad for parameter in network.parameters())


@each_method
def test_logits_for_the_learning_curve_are_detached_and_those_of_the_loss(method: Any) -> None:
    network = Recorder()
    terms = run(method, network)
    assert not terms.logits.requires_grad
    # SmoothMix's last inputs are mixed ones, of no class.
    returned = network.returned[-2 if method.name == "smoothmix" else -1]
    assert torch.equal(terms.logits.flatten(0, 1), returned)


@each_method
def test_a_loss_depends_on_its_generator_alone(method: Any) -> None:
    torch.manual_seed(0)
    first = run(method, Recorder()).loss
    torch.manual_seed(1)
    assert torch.equal(run(method, Recorder()).loss, first)


@each_method
def test_the_network_runs_as_often_as_the_method_says(method: Any) -> None:
    network = Recorder()
    run(method, network)
    assert sum(len(seen) for seen in network.seen) == len(batch()[0]) * method.passes_per_image


@each_method
def test_the_loss_is_finite_with_a_single_noise_vector(method: Any) -> None:
    single = method.model_copy(update={"m": 1}) if "m" in type(method).model_fields else method
    assert bool(run(single, Recorder()).loss.isfinite())


@pytest.mark.parametrize(
    ("method", "images"),
    list(zip(METHODS, (100, 33, 100, 33, 100, 33, 33, 33), strict=True)),
    ids=[m.name for m in METHODS],
)
def test_a_batch_is_split_into_m_steps_by_the_methods_whose_references_do(method: Any, images: int) -> None:
    assert method.images_per_step(100) == images


@pytest.mark.parametrize(
    ("method", "passes"),
    list(zip(METHODS, (1, 9, 3, 9, 2, 3, 9, 12), strict=True)),
    ids=[m.name for m in METHODS],
)
def test_passes_are_those_of_attack_and_training_step(method: Any, passes: int) -> None:
    assert method.passes_per_image == passes


def test_defaults_are_the_papers() -> None:
    attack = {"T": 2, "m": 8, "eps": 1.0, "warmup": 10}
    hinge = {"lbd": 12.0, "gamma": 8.0, "beta": 16.0, "defer": 0}
    assert AdvMacer(name="advmacer").model_dump() == {"name": "advmacer", **attack, **hinge}
    assert SmoothAdv(name="smoothadv").model_dump() == {"name": "smoothadv", **attack}
    assert MACER(name="macer").model_dump() == {"name": "macer", "m": 16, **hinge}


def test_defaults_of_the_baselines_are_those_of_cifar10() -> None:
    attack = {"T": 10, "m": 2, "eps": 2.0, "warmup": 10, "lbd": 1.0, "eta": 0.5}
    mix = {"T": 4, "m": 2, "alpha": 1.0, "mix_step": 0, "maxnorm": None, "eta": 5.0, "warmup": 10}
    assert Stability(name="stability").model_dump() == {"name": "stability", "lbd": 2.0}
    assert Consistency(name="consistency").model_dump() == {"name": "consistency", "m": 2, "lbd": 10.0, "eta": 0.5}
    defaults = SmoothAdvConsistency(name="smoothadv_consistency").model_dump()
    assert defaults == {"name": "smoothadv_consistency", **attack}
    assert SmoothMix(name="smoothmix").model_dump() == {"name": "smoothmix", **mix}


@each_method
def test_a_method_is_found_by_its_name(method: Any) -> None:
    validated: Any = TypeAdapter(MethodSpec).validate_python(method.model_dump())
    assert validated == method


IMPOSSIBLE = {
    "T": (0, -1, 1.5),
    "m": (0, -1, 1.5),
    "eps": (0.0, -1.0, float("nan"), float("inf")),
    "alpha": (0.0, -1.0, float("inf")),
    "maxnorm": (0.0, -1.0, float("inf")),
    "gamma": (0.0, -1.0, float("inf")),
    "beta": (0.0, -1.0, float("inf")),
    "lbd": (-1.0, float("nan"), float("inf")),
    "eta": (-1.0, float("nan"), float("inf")),
    "warmup": (-1, 0.5),
    "defer": (-1, 0.5),
    "mix_step": (-1, 0.5),
}


@each_method
def test_impossible_hyper_parameters_are_refused(method: Any) -> None:
    values = method.model_dump()
    for name in values.keys() - {"name"}:
        for value in IMPOSSIBLE[name]:
            with pytest.raises(ValidationError, match=rf"^1 validation error.*\n{name}\n"):
                type(method).model_validate({**values, name: value})


def test_the_default_schedule_is_the_papers() -> None:
    expected = {
        "epochs": 150,
        "batch_size": 256,
        "lr": 0.1,
        "lr_step": 50,
        "lr_decay": 0.1,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "grad_clip": None,
        "precision": "float32",
        "compiled": False,
        "common_seeds": False,
    }
    assert TrainingSpec().model_dump() == expected


def test_the_loss_of_macer_has_the_papers_defaults() -> None:
    logits, labels = one_copy((0.7, 0.2, 0.1)) / 16, torch.tensor([0])
    expected, _ = reference(logits, labels, sigma=SIGMA, lbd=12.0, gamma=8.0, beta=16.0)
    assert float(macer_loss(logits, labels, sigma=SIGMA)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_macer_loss_takes_the_logits_of_autocast(dtype: torch.dtype) -> None:
    logits, labels = 3 * torch.randn(8, 4, 5, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 5
    half = logits.to(dtype).requires_grad_()
    loss = macer_loss(half, labels, sigma=0.5)
    torch.testing.assert_close(loss, macer_loss(half.float(), labels, sigma=0.5))
    loss.backward()
    assert half.grad is not None
    assert half.grad.isfinite().all()


@pytest.mark.parametrize(
    ("method", "draws"),
    [
        (CATRS(name="catrs", teacher_draws=70), [70, 0, 0, 0]),
        (ACRWeakness(name="acr_weakness", discard_epoch=1, reweigh_every=2), [0, 116, 0, 16]),
        (Gaussian(name="gaussian"), [0, 0, 0, 0]),
    ],
)
def test_a_survey_says_what_it_costs(method: Method, draws: list[int]) -> None:
    assert [method.survey_draws(epoch) for epoch in range(4)] == draws
    assert [method.surveys(epoch) for epoch in range(4)] == [number > 0 for number in draws]
