"""Stability, Consistency (alone and with SmoothAdv) and SmoothMix against their formulas, in float64 by numpy."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.special import log_softmax, softmax
from scipy.stats import kstest
from torch import Tensor

from rspipe.arrays import FloatArray
from rspipe.data.sources import load_dataset
from rspipe.data.spec import DigitsData
from rspipe.smoothing.attacks import fixed_step_path
from rspipe.training.fitting import fit
from rspipe.training.methods.consistency import Consistency, consistency_terms
from rspipe.training.methods.method import Terms
from rspipe.training.methods.smoothadv_consistency import SmoothAdvConsistency
from rspipe.training.methods.smoothmix import SmoothMix, mixup_loss
from rspipe.training.methods.stability import Stability
from rspipe.training.randomness import Draws
from rspipe.training.spec import ModelSpec, TrainingSpec
from rspipe.training.validation import evaluate
from tests.training.methods.test_methods import METHODS, SIGMA, Recorder, batch, copies_of, loss_of, run

M = 3
CLASSES = 4
# A deadline would fail on a busy machine.
many = settings(deadline=None, derandomize=True)


def drawn(seed: int, *shape: int, scale: float = 2.0) -> FloatArray:
    return scale * np.random.default_rng(seed).normal(size=shape)


def one_hot(labels: Tensor, classes: int = CLASSES) -> FloatArray:
    return np.eye(classes)[labels.numpy()]


def through_softmax(p: FloatArray, slope: FloatArray) -> FloatArray:
    """Turn the gradient with respect to p = softmax(u) into that with respect to u."""
    return p * (slope - (p * slope).sum(-1, keepdims=True))


def by_chain_rule(network: Recorder, slopes: dict[int, FloatArray]) -> list[Tensor]:
    """The gradient of the parameters from that of the logits of some of the passes, their inputs held fixed."""
    total = [torch.zeros_like(p) for p in network.parameters()]
    for which, slope in slopes.items():
        logits = network.net(network.seen[which])
        parts = torch.autograd.grad(logits, list(network.parameters()), torch.from_numpy(slope).view_as(logits))
        total = [t + part for t, part in zip(total, parts, strict=True)]
    return total


def assert_gradient(network: Recorder, expected: list[Tensor]) -> None:
    for parameter, slope in zip(network.parameters(), expected, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, slope, rtol=1e-8, atol=1e-11)


def trace(method: Any, *, epoch: int = 50) -> tuple[Recorder, Terms]:
    """The inputs and logits of a network in float64, and the loss, with its gradient in the parameters."""
    network = Recorder().double()
    terms = run(method, network, epoch=epoch)
    torch.autograd.backward(terms.loss)
    return network, terms


# Stability


def stability(
    clean: FloatArray, noisy: FloatArray, labels: Tensor, *, lbd: float
) -> tuple[float, FloatArray, FloatArray]:
    """The loss of stability training and its gradient in the logits of images and noisy copies, [images, class]."""
    p, log_q, size = softmax(clean, axis=1), log_softmax(noisy, axis=1), len(labels)
    hot = one_hot(labels, clean.shape[1])
    loss = -(hot * np.log(p)).sum() / size - lbd * (p * log_q).sum() / size
    of_clean = (p - hot - lbd * through_softmax(p, log_q)) / size
    return loss, of_clean, lbd * (np.exp(log_q) - p) / size


@pytest.mark.parametrize("lbd", [0.0, 0.5, 2.0])
def test_stability_is_its_formula_with_gradients_through_both_outputs(lbd: float) -> None:
    network, terms = trace(Stability(name="stability", lbd=lbd))
    clean, noisy = (logits.numpy() for logits in network.returned)
    expected, of_clean, of_noisy = stability(clean, noisy, batch()[1], lbd=lbd)
    assert float(terms.loss.detach()) == pytest.approx(expected, rel=1e-12)
    assert_gradient(network, by_chain_rule(network, {0: of_clean, 1: of_noisy}))


def test_stability_sees_the_images_and_then_one_noisy_copy_of_each() -> None:
    network, _ = trace(Stability(name="stability"))
    clean, noisy = network.seen
    assert torch.equal(clean, batch()[0].double())
    noise = torch.randn(5, 1, 1, 4, 4, generator=torch.Generator().manual_seed(11), dtype=torch.float64)
    assert torch.equal(noisy, clean + SIGMA * noise[:, 0])


def test_the_cross_entropy_of_stability_is_that_of_the_images_without_noise() -> None:
    network, terms = trace(Stability(name="stability"))
    expected = -log_softmax(network.returned[0].numpy(), axis=1)[np.arange(5), batch()[1].numpy()].mean()
    assert float(terms.parts["cross_entropy"]) == pytest.approx(expected, rel=1e-12)


# Consistency


def consistency(u: FloatArray, labels: Tensor, *, lbd: float, eta: float) -> tuple[float, FloatArray]:
    """The loss of consistency regularization and its gradient, for logits [images, noise, class]."""
    size, m, classes = u.shape
    log_p = log_softmax(u, axis=2)
    p = np.exp(log_p)
    mean, hot = p.mean(1), one_hot(labels, classes)[:, None]
    entropy = -(mean * np.log(mean)).sum(1)
    # KL(pbar || p_j) is the cross-entropy of p_j under pbar less the entropy of pbar.
    divergence = -(mean[:, None] * log_p).sum(2).mean(1) - entropy
    loss = -(hot * log_p).sum() / (size * m) + (lbd * divergence + eta * entropy).sum() / size
    in_mean = (lbd - eta) * (np.log(mean) + 1)[:, None] - lbd * log_p.mean(1, keepdims=True)
    slope = (p - hot) + through_softmax(p, in_mean) + lbd * (p - mean[:, None])
    return float(loss), slope / (size * m)


@many
@given(
    seed=st.integers(0, 2**32),
    shape=st.tuples(st.integers(1, 6), st.integers(1, 5), st.integers(2, 6)),
    lbd=st.floats(0, 20),
    eta=st.floats(0, 5),
)
def test_loss_and_gradient_of_consistency_are_the_formula(
    seed: int, shape: tuple[int, int, int], lbd: float, eta: float
) -> None:
    u = drawn(seed, *shape)
    labels = torch.from_numpy(np.random.default_rng(seed).integers(0, shape[2], shape[0]))
    expected, slope = consistency(u, labels, lbd=lbd, eta=eta)
    logits = torch.from_numpy(u).requires_grad_(True)
    terms = consistency_terms(logits, labels, lbd=lbd, eta=eta)
    (gradient,) = torch.autograd.grad(terms.loss, logits)
    assert float(terms.loss.detach()) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    np.testing.assert_allclose(gradient.numpy(), slope, rtol=1e-7, atol=1e-10)


def test_consistency_takes_the_divergence_of_the_mean_from_each_copy_and_not_the_reverse() -> None:
    p = np.array([[0.9, 0.1], [0.5, 0.5]])
    mean = p.mean(0)
    terms = consistency_terms(torch.from_numpy(np.log(p))[None], torch.tensor([0]), lbd=3.0, eta=0.0)
    assert float(terms.parts["consistency"]) == pytest.approx(3 * (mean * np.log(mean / p)).sum(1).mean())
    assert float(terms.parts["consistency"]) != pytest.approx(3 * (p * np.log(p / mean)).sum(1).mean(), rel=0.01)


def test_copies_that_agree_cost_their_entropy_alone() -> None:
    p = np.array([0.7, 0.2, 0.1])
    logits = torch.from_numpy(np.log(p)).expand(2, 4, 3)
    parts = consistency_terms(logits, torch.tensor([0, 1]), lbd=20.0, eta=0.5).parts
    assert float(parts["consistency"]) == pytest.approx(0, abs=1e-14)
    assert float(parts["entropy"]) == pytest.approx(-0.5 * (p * np.log(p)).sum())


def test_the_cross_entropy_of_consistency_is_that_of_all_copies() -> None:
    p = np.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]])
    terms = consistency_terms(torch.from_numpy(np.log(p))[None], torch.tensor([0]), lbd=1.0, eta=1.0)
    assert float(terms.parts["cross_entropy"]) == pytest.approx(-np.log(p[:, 0]).mean())


@pytest.mark.parametrize("far", [120.0, 1e4])
def test_copies_whose_softmax_underflows_give_a_finite_loss_and_gradient_of_consistency(far: float) -> None:
    u = np.array([[[far, 0.0, 0.0], [far, 1.0, 0.0]], [[0.0, far, 0.0], [far, 0.0, 0.0]]])
    logits = torch.from_numpy(u).float().requires_grad_(True)
    labels = torch.tensor([0, 1])
    terms = consistency_terms(logits, labels, lbd=10.0, eta=0.5)
    (gradient,) = torch.autograd.grad(terms.loss, logits)
    assert bool(gradient.isfinite().all())
    # With the clamp of the reference, in float64; 0 log 0 is 0.
    log_p = log_softmax(u, axis=2)
    mean = np.exp(log_p).mean(1)
    log_mean = np.log(np.maximum(mean, 1e-20))
    divergence = np.where(mean[:, None] > 0, mean[:, None] * (log_mean[:, None] - log_p), 0).sum(2).mean(1)
    entropy = -(mean * log_mean).sum(1)
    cross = -log_p[np.arange(2), :, labels.numpy()].mean()
    assert float(terms.loss.detach()) == pytest.approx(cross + (10 * divergence + 0.5 * entropy).mean(), rel=1e-5)


@pytest.mark.parametrize("method", METHODS[5:7], ids=lambda m: m.name)
def test_a_method_with_consistency_is_its_formula_at_the_copies_it_saw_last(method: Any) -> None:
    network, terms = trace(method)
    expected, slope = consistency(
        network.returned[-1].view(5, M, -1).numpy(), batch()[1], lbd=method.lbd, eta=method.eta
    )
    assert float(terms.parts["consistency"]) > 0
    assert float(terms.loss.detach()) == pytest.approx(expected, rel=1e-10)
    assert_gradient(network, by_chain_rule(network, {-1: slope}))


def test_consistency_alone_sees_noisy_copies_of_the_images() -> None:
    network, _ = trace(METHODS[5])
    (seen,) = network.seen
    noise = torch.randn(5, M, 1, 4, 4, generator=torch.Generator().manual_seed(11), dtype=torch.float64)
    assert torch.equal(copies_of(seen, M), batch()[0].double().unsqueeze(1) + SIGMA * noise)


def displacements(network: Recorder, *, copies: int = M) -> Tensor:
    """How far from the images each pass saw them, [pass, image, pixel]; the noise is that of the first pass."""
    seen = torch.stack([copies_of(inputs, copies) for inputs in network.seen])
    return (seen - seen[:1])[:, :, 0].flatten(2)


@pytest.mark.parametrize(("epoch", "share"), [(0, 0.1), (4, 0.5), (50, 1.0)])
def test_smoothadv_with_consistency_attacks_with_steps_of_twice_the_radius_over_their_number(
    epoch: int, share: float
) -> None:
    method = SmoothAdvConsistency(name="smoothadv_consistency", T=5, m=M, eps=0.1)
    lengths = displacements(trace(method, epoch=epoch)[0]).norm(dim=2)
    torch.testing.assert_close(lengths[1], torch.full_like(lengths[1], share * 0.04), rtol=1e-5, atol=0)
    assert float(lengths.max()) <= share * 0.1 * (1 + 1e-12)
    torch.testing.assert_close(lengths[5], torch.full_like(lengths[5], share * 0.1), rtol=0.05, atol=0)


def test_smoothadv_with_consistency_trains_where_the_attack_of_fixed_steps_leads_at_the_edge_of_the_pixels() -> None:
    method = SmoothAdvConsistency(name="smoothadv_consistency", T=3, m=M, eps=1.0, warmup=0)
    network, _ = trace(method)
    noise = SIGMA * torch.randn(5, M, 1, 4, 4, generator=torch.Generator().manual_seed(11), dtype=torch.float64)
    images, labels = batch()
    (*_, led) = fixed_step_path(network.net, images.double(), labels, noise, step=2 / 3, steps=3, radius=1.0)
    # SmoothAdv's own attack clips first, which leads elsewhere.
    assert bool(((led == 0) | (led == 1)).any())
    torch.testing.assert_close(copies_of(network.seen[-1], M) - noise, led.unsqueeze(1).expand_as(noise))


def test_smoothadv_with_consistency_attacks_the_mean_loss_of_the_mini_batch() -> None:
    """Of a gradient g of the sum over five images, a step goes |g| / (|g| + 5e-8) of its length."""
    method = SmoothAdvConsistency(name="smoothadv_consistency", T=4, m=M, eps=0.1, warmup=0)
    (network, _), (images, labels) = trace(method), batch()
    noise = copies_of(network.seen[0], M) - images.double().unsqueeze(1)
    at = images.double().requires_grad_(True)
    # The classifier of the attack: the mean of the softmax over the noise.
    logits = network.net((at.unsqueeze(1) + noise).flatten(0, 1)).view(len(images), M, -1)
    label_probability = logits.softmax(-1).mean(1).gather(1, labels.unsqueeze(1))
    (gradient,) = torch.autograd.grad(-label_probability.log().sum(), at)
    norm = gradient.flatten(1).norm(dim=1)
    lengths = displacements(network).norm(dim=2)[1]
    # Differences of numbers of order one to numbers of order .05 in float64.
    torch.testing.assert_close(lengths, 0.05 * norm / (norm + 5e-8), rtol=1e-13, atol=0)


@pytest.mark.parametrize("name", ["consistency", "smoothadv_consistency"])
def test_consistency_of_a_single_copy_is_refused(name: str) -> None:
    kind: Any = {"consistency": Consistency, "smoothadv_consistency": SmoothAdvConsistency}[name]
    with pytest.raises(ValidationError, match="m\n  Input should be greater than or equal to 2"):
        kind(name=name, m=1)


# SmoothMix


def mixup(
    mixed: FloatArray, clean: FloatArray, labels: Tensor, shares: FloatArray
) -> tuple[float, FloatArray, FloatArray]:
    """SmoothMix's second term and its gradient in the logits at mixed inputs and at x0."""
    size, m, classes = mixed.shape
    log_q, p = log_softmax(mixed, axis=2), softmax(clean, axis=2)
    mean, l = p.mean(1), shares[:, None]  # noqa: E741
    right = (mean.argmax(1) == labels.numpy())[:, None, None] / (size * m)
    target = (1 - l) * mean + l / classes
    loss = (right * target[:, None] * (np.log(target)[:, None] - log_q)).sum()
    of_mixed = right * (np.exp(log_q) - target[:, None])
    in_mean = (1 - l) * (np.log(target) - log_q.mean(1))
    return float(loss), of_mixed, right * through_softmax(p, np.broadcast_to(in_mean[:, None], p.shape))


@many
@given(seed=st.integers(0, 2**32), shape=st.tuples(st.integers(1, 6), st.integers(1, 5), st.integers(2, 6)))
def test_value_and_gradients_of_the_mixed_term_are_the_formula(seed: int, shape: tuple[int, int, int]) -> None:
    mixed, clean = drawn(seed, *shape), drawn(seed + 1, *shape)
    rng = np.random.default_rng(seed)
    labels, shares = torch.from_numpy(rng.integers(0, shape[2], shape[0])), rng.uniform(0, 0.5, shape[0])
    expected, *slopes = mixup(mixed, clean, labels, shares)
    inputs = [torch.from_numpy(u).requires_grad_(True) for u in (mixed, clean)]
    loss = mixup_loss(*inputs, labels, shares=torch.from_numpy(shares))
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    for gradient, slope in zip(torch.autograd.grad(loss, inputs), slopes, strict=True):
        np.testing.assert_allclose(gradient.numpy(), slope, rtol=1e-7, atol=1e-10)


def as_logits(*p: list[float]) -> Tensor:
    """Logits [image, 1, class] whose softmax is each row."""
    return torch.tensor(p, dtype=torch.float64).log().unsqueeze(1)


def test_an_image_that_is_misclassified_at_x0_has_no_mixed_term_and_still_counts_in_the_mean() -> None:
    clean, mixed = as_logits([0.7, 0.3], [0.7, 0.3]), as_logits([0.5, 0.5], [0.5, 0.5])
    shares = torch.zeros(2, dtype=torch.float64)
    divergence = 0.7 * np.log(1.4) + 0.3 * np.log(0.6)
    assert float(mixup_loss(mixed, clean, torch.tensor([0, 1]), shares=shares)) == pytest.approx(divergence / 2)
    assert float(mixup_loss(mixed, clean, torch.tensor([1, 1]), shares=shares)) == 0


def test_the_class_that_decides_is_that_of_the_mean_over_the_noise() -> None:
    # Two of three copies say class 1, their mean says class 0.
    clean = torch.tensor([[[0.99, 0.01], [0.4, 0.6], [0.4, 0.6]]], dtype=torch.float64).log()
    mixed = as_logits([0.5, 0.5]).expand(1, 3, 2)
    terms = [
        float(mixup_loss(mixed, clean, torch.tensor([label]), shares=torch.zeros(1, dtype=torch.float64)))
        for label in (0, 1)
    ]
    assert terms[0] > 0 == terms[1]


def test_the_target_is_mixed_with_the_uniform_distribution() -> None:
    target = 0.75 * np.array([0.7, 0.2, 0.1]) + 0.25 / 3
    clean = as_logits([0.7, 0.2, 0.1])
    share, label = torch.tensor([0.25], dtype=torch.float64), torch.tensor([0])
    assert float(mixup_loss(as_logits(target.tolist()), clean, label, shares=share)) == pytest.approx(0, abs=1e-14)
    assert float(mixup_loss(clean, clean, label, shares=share)) > 0.01


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_a_softmax_that_underflows_gives_a_finite_mixed_term_and_gradient(share: float) -> None:
    inputs = [
        torch.tensor([[[120.0, 0.0, 1.0]]], requires_grad=True),
        torch.tensor([[[1e4, 0.0, 9.0]]], requires_grad=True),
    ]
    loss = mixup_loss(*inputs, torch.tensor([0]), shares=torch.tensor([share]))
    assert bool(loss.isfinite())
    assert all(bool(g.isfinite().all()) for g in torch.autograd.grad(loss, inputs))


def smoothmix(**values: Any) -> SmoothMix:
    return SmoothMix(**{"name": "smoothmix", "T": 4, "m": M, "alpha": 0.1, "mix_step": 1, **values})


def last_state(network: Recorder, *, method: SmoothMix) -> Tensor:
    """x_T less the images, [image, pixel]: a step beyond the last state that the attack looked at."""
    inputs = copies_of(network.seen[method.T - 1], method.m).clone()
    delta = torch.zeros_like(inputs[:, 0]).requires_grad_(True)
    p = network.net((inputs + delta.unsqueeze(1)).flatten(0, 1)).softmax(1).view(5, method.m, -1).mean(1)
    (gradient,) = torch.autograd.grad(-p[torch.arange(5), batch()[1]].log().sum(), delta)
    step = gradient.flatten(1) / (gradient.flatten(1).norm(dim=1, keepdim=True) + 1e-8)
    moved = displacements(network, copies=method.m)[method.T - 1] + method.alpha * step
    if method.maxnorm is not None:
        moved *= (method.maxnorm / moved.norm(dim=1, keepdim=True)).clamp(max=1)
    return moved


def shares_of(network: Recorder, *, method: SmoothMix) -> Tensor:
    """The l of each image: how far the mixed input lies on the way from x0 to x_T."""
    start, mixed = displacements(network, copies=method.m)[method.T :]
    way = last_state(network, method=method) - start
    shares = ((mixed - start) * way).sum(1) / (way * way).sum(1)
    torch.testing.assert_close(mixed, start + shares.unsqueeze(1) * way, rtol=0, atol=1e-12)
    return shares


@pytest.mark.parametrize("epoch", [0, 3, 50])
@pytest.mark.parametrize("values", [{}, {"mix_step": 0}, {"mix_step": 2}, {"maxnorm": 0.15}], ids=str)
def test_smoothmix_is_its_formula_at_the_inputs_it_saw(values: dict[str, Any], epoch: int) -> None:
    method, warm = smoothmix(**values), min(1.0, (epoch + 1) / 10)
    network, terms = trace(method, epoch=epoch)
    labels = batch()[1]
    clean, mixed = (logits.view(5, M, -1).numpy() for logits in network.returned[4:])
    term, of_mixed, of_clean = mixup(mixed, clean, labels, shares_of(network, method=method).numpy())
    cross, of_copies = consistency(clean, labels, lbd=0.0, eta=0.0)
    weight = 5 * warm
    assert term > 0
    assert float(terms.loss.detach()) == pytest.approx(cross + weight * term, rel=1e-10)
    assert_gradient(network, by_chain_rule(network, {4: of_copies + weight * of_clean, 5: weight * of_mixed}))


def test_attack_x0_and_mixed_inputs_share_their_noise() -> None:
    network, _ = trace(smoothmix())
    seen = torch.stack([copies_of(inputs, M) for inputs in network.seen])
    moved = seen - seen[:1]
    torch.testing.assert_close(moved, moved[:, :, :1].expand_as(moved), rtol=0, atol=1e-14)
    noise = torch.randn(5, M, 1, 4, 4, generator=torch.Generator().manual_seed(11), dtype=torch.float64)
    assert torch.equal(seen[0], batch()[0].double().unsqueeze(1) + SIGMA * noise)


@pytest.mark.parametrize("epoch", [0, 50])
def test_steps_of_smoothmix_have_a_length_that_neither_their_number_nor_the_epoch_changes(epoch: int) -> None:
    for steps in (2, 5):
        moved = displacements(trace(smoothmix(T=steps), epoch=epoch)[0])
        lengths = moved[:steps].diff(dim=0).norm(dim=2)
        torch.testing.assert_close(lengths, torch.full_like(lengths, 0.1), rtol=1e-6, atol=0)


def test_smoothmix_has_no_ball_unless_maxnorm_gives_one() -> None:
    free, bound = smoothmix(T=6), smoothmix(T=6, maxnorm=0.15)
    assert float(last_state(trace(free)[0], method=free).norm(dim=1).min()) > 0.3
    network, _ = trace(bound)
    lengths = displacements(network).norm(dim=2)
    assert float(lengths.max()) <= 0.15 * (1 + 1e-12)
    torch.testing.assert_close(lengths[5], torch.full_like(lengths[5], 0.15), rtol=1e-3, atol=0)


@pytest.mark.parametrize("mix_step", [0, 1, 2, 3])
def test_x0_is_where_the_attack_stood_after_mix_step_steps(mix_step: int) -> None:
    moved = displacements(trace(smoothmix(mix_step=mix_step))[0])
    torch.testing.assert_close(moved[4], moved[mix_step], rtol=0, atol=1e-14)


@pytest.mark.parametrize(("epoch", "warm"), [(0, 0.1), (4, 0.5), (8, 0.9)])
@pytest.mark.parametrize("mix_step", [0, 1, 3])
def test_x0_is_projected_to_a_ball_that_warms_up(mix_step: int, epoch: int, warm: float) -> None:
    moved = displacements(trace(smoothmix(mix_step=mix_step), epoch=epoch)[0])
    state, radius = moved[mix_step], warm * 0.1 * mix_step
    length = state.norm(dim=1, keepdim=True)
    expected = torch.where(length > radius, state * radius / length.clamp(min=1e-300), state)
    torch.testing.assert_close(moved[4], expected, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize(("epoch", "warm"), [(0, 0.1), (4, 0.5), (9, 1.0)])
def test_the_weight_of_the_mixed_term_warms_up(epoch: int, warm: float) -> None:
    part = [float(trace(smoothmix(mix_step=0), epoch=e)[1].parts["mixup"]) for e in (epoch, 50)]
    assert part[0] == pytest.approx(warm * part[1], rel=1e-12)


def test_shares_are_uniform_up_to_a_half_with_one_for_each_image() -> None:
    n = 2000
    images, labels = torch.full((n, 1, 4, 4), 0.5, dtype=torch.float64), torch.zeros(n, dtype=torch.int64)
    network = Recorder().double()
    method = smoothmix(T=1, m=2, mix_step=0)
    generator = torch.Generator().manual_seed(0)
    loss_of(method, network, images, labels, epoch=50, draws=Draws(generator, generator))
    start, mixed = network.seen[1:]
    moved = (mixed - start).flatten(1).norm(dim=1).view(n, 2)
    torch.testing.assert_close(moved[:, 0], moved[:, 1])
    # The way from the image to x_T is one step long.
    shares = moved[:, 0].numpy() / method.alpha
    assert kstest(shares, "uniform", args=(0, 0.5)).pvalue > 1e-6


def test_noise_and_shares_are_drawn_from_the_generator_and_nothing_else_is() -> None:
    generators = [torch.Generator().manual_seed(11) for _ in range(2)]
    images, labels = batch()
    draws = Draws(generators[0], generators[0])
    loss_of(smoothmix(), Recorder(), images, labels, epoch=0, draws=draws)
    torch.randn(5, M, 1, 4, 4, generator=generators[1])
    torch.rand(5, generator=generators[1])
    assert torch.equal(generators[0].get_state(), generators[1].get_state())


@pytest.mark.parametrize("mix_step", [4, 5])
def test_an_x0_at_the_end_of_the_attack_or_beyond_is_refused(mix_step: int) -> None:
    with pytest.raises(ValidationError, match=f"mix_step = {mix_step} must be below T = 4; lower it or raise T"):
        smoothmix(mix_step=mix_step)


# Training

TRAINED: tuple[Any, ...] = (
    *METHODS[:2],
    *(method.model_copy(update={"lbd": 0.5}) for method in METHODS[2:4]),
    METHODS[4],
    Consistency(name="consistency", lbd=2.0),
    SmoothAdvConsistency(name="smoothadv_consistency", T=2, m=2, eps=0.25, warmup=0),
    SmoothMix(name="smoothmix", T=2, alpha=0.25, mix_step=1, eta=1.0, warmup=0),
)


@pytest.mark.parametrize("method", TRAINED, ids=lambda m: m.name)
def test_training_lowers_the_loss_and_learns_to_see_through_the_noise(method: Any) -> None:
    whole = load_dataset(DigitsData())
    data = replace(whole, train=whole.train.evenly_spaced(500), validation=whole.validation.evenly_spaced(20))
    training = TrainingSpec(epochs=4, batch_size=48, lr=0.05, lr_step=4)
    spec = ModelSpec(
        label="m",
        data=DigitsData(),
        architecture="digits_cnn",
        method=method,
        training=training,
        train_sigma=0.25,
        seed=0,
    )
    done = fit(spec, data)
    losses = [entry["loss"] for entry in done.history]
    assert done.status == "finished"
    assert losses[-1] < 0.8 * losses[0]
    # Ten classes: five standard deviations above chance on the validation images.
    images = len(whole.validation)
    chance = 0.1 + 5 * (0.1 * 0.9 / images) ** 0.5
    assert evaluate(done.network, whole.validation, sigma=0.25, seed=0).noisy_accuracy > chance
