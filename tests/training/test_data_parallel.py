"""Several processes that train one model compute what one process does, up to rounding."""

import multiprocessing
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rspipe.data.sources import load_dataset
from rspipe.data.spec import DigitsData
from rspipe.data.splits import Dataset, Split
from rspipe.networks.architectures import build_network
from rspipe.training.data_parallel import _SharedBatchNorm, shared, sum_gradients
from rspipe.training.fitting import Means, fit
from rspipe.training.methods.advmacer import AdvMacer
from rspipe.training.methods.gaussian import Gaussian
from rspipe.training.methods.macer import MACER
from rspipe.training.methods.smoothmix import SmoothMix
from rspipe.training.spec import ModelSpec, TrainingSpec

PROCESSES = 2
METHODS: tuple[Any, ...] = (
    Gaussian(name="gaussian"),
    MACER(name="macer", lbd=1.0, gamma=4.0, beta=1.0, m=3),
    # Mini-batches of 10 images: 30 rows, and 10 in a first step of the attack with one copy.
    AdvMacer(name="advmacer", lbd=1.0, gamma=4.0, beta=1.0, T=2, m=3, eps=0.25, warmup=2),
    SmoothMix(name="smoothmix", T=2, m=2, alpha=0.1, warmup=2),
)


def small_network() -> nn.Module:
    """Return a network in float64 whose batch normalization has seen nothing yet."""
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8)
    return nn.Sequential(*layers, nn.ReLU(), nn.Linear(8, 3)).double()


def step(network: nn.Module, run: nn.Module, finish: Callable[[], None], *, rows: int) -> dict[str, Tensor]:
    """Return everything that a training step computes from two passes, the second at an adversarial place."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand((rows, 1, 4, 4), generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (rows,), generator=generator)
    at = images.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(cross_entropy(run(at), labels), at)
    # Mean and square of all rows: no row's loss stands alone.
    logits = run(images + 0.1 * gradient.sign())
    loss = cross_entropy(logits, labels) + logits.mean(0).square().sum()
    network.zero_grad()
    torch.autograd.backward(loss)
    finish()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    buffers = {f"buffer {name}": buffer for name, buffer in network.named_buffers()}
    found = {"input gradient": gradient, "loss": loss.detach(), "logits": logits.detach(), **gradients, **buffers}
    return {name: value.clone() for name, value in found.items() if value is not None}


def digits() -> Dataset:
    data = load_dataset(DigitsData())
    train = Split(data.train.images[:61], data.train.labels[:61], data.train.index[:61])
    return replace(data, train=train)


def model_spec(method: Any, **training: Any) -> ModelSpec:
    return ModelSpec(
        label="model",
        data=DigitsData(),
        architecture="digits_cnn",
        method=method,
        training=TrainingSpec(**{"epochs": 2, "batch_size": 30, "lr": 0.02, **training}),
        train_sigma=0.25,
        seed=3,
    )


def _process(rank: int, port: int, results: Any) -> None:
    """Run in each of the processes: everything that the tests below compare."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=PROCESSES)
    group = dist.group.WORLD
    assert group is not None
    found: dict[str, Any] = {}
    for rows in (1 + PROCESSES, 7, 12):
        network = small_network().train()
        twin = shared(network, group).train()

        def finish(network: nn.Module = network) -> None:
            sum_gradients(network, group)

        steps = step(network, twin, finish, rows=rows)
        found[f"step {rows}"] = {name: value.numpy() for name, value in steps.items()}
    for method in METHODS:
        result = fit(model_spec(method), digits(), means=Means(group=group))
        found[method.name] = result.history, [p.detach().numpy() for p in result.network.parameters()]
    clipped = fit(model_spec(METHODS[0], grad_clip=0.5), digits(), means=Means(group=group))
    found["clipped"] = clipped.history
    results.put((rank, found))
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def together() -> list[dict[str, Any]]:
    """Return what each of the processes found, in the order of their ranks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=_process, args=(rank, port, results)) for rank in range(PROCESSES)]
    for process in processes:
        process.start()
    found = dict(results.get(timeout=300) for _ in processes)
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    return [found[rank] for rank in range(PROCESSES)]


@pytest.mark.parametrize("rows", [1 + PROCESSES, 7, 12])
def test_loss_gradients_and_batch_statistics_are_those_of_one_process(
    rows: int, together: list[dict[str, Any]]
) -> None:
    network = small_network().train()
    expected = step(network, network, lambda: None, rows=rows)
    for found in together:
        assert found[f"step {rows}"].keys() == expected.keys()
        for name, value in expected.items():
            # In float64: sums of some hundred terms of order one, of which batch normalization takes differences.
            np.testing.assert_allclose(found[f"step {rows}"][name], value.numpy(), rtol=1e-9, atol=1e-11, err_msg=name)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_training_together_gives_the_losses_of_training_alone(method: Any, together: list[dict[str, Any]]) -> None:
    alone = fit(model_spec(method), digits())
    for found in together:
        history, _ = found[method.name]
        for ours, theirs in zip(history, alone.history, strict=True):
            for name in ("loss", "noisy_accuracy"):
                # Rounding in float32 grows by a factor of some hundred over four or six steps; noise of another
                # draw would change the loss by a tenth.
                assert ours[name] == pytest.approx(theirs[name], rel=1e-3), name


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_all_processes_hold_the_same_bits_in_the_end(method: Any, together: list[dict[str, Any]]) -> None:
    first, second = (found[method.name][1] for found in together)
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(first, second, strict=True))


def test_a_gradient_is_clipped_after_the_processes_added_theirs(together: list[dict[str, Any]]) -> None:
    alone = fit(model_spec(METHODS[0], grad_clip=0.5), digits())
    for found in together:
        for ours, theirs in zip(found["clipped"], alone.history, strict=True):
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)


def test_a_shared_network_leaves_the_network_itself_as_it_is() -> None:
    network = build_network("cifar_resnet20", classes=3, seed=0)
    names, kinds = list(network.state_dict()), [type(module) for module in network.modules()]
    twin = shared(network, dist.ProcessGroup(0, 1))
    assert [type(module) for module in network.modules()] == kinds
    assert list(network.state_dict()) == names
    ours = {id(parameter) for parameter in twin.parameters()}
    assert ours == {id(parameter) for parameter in network.parameters()}
    layers = [module.layer for module in twin.modules() if isinstance(module, _SharedBatchNorm)]
    assert len(layers) == kinds.count(nn.BatchNorm2d) > 10
    assert {id(layer) for layer in layers}.isdisjoint(id(module) for module in network.modules())
