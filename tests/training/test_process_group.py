"""Several processes that train one model compute what one process does, up to rounding."""

import io
import multiprocessing
import queue
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from rspipe.data.sources import load_dataset
from rspipe.data.spec import DigitsData
from rspipe.data.splits import Dataset, Split
from rspipe.networks.architectures import ARCHITECTURES, build_network
from rspipe.training.fitting import Fit, State, fit
from rspipe.training.methods.advmacer import AdvMacer
from rspipe.training.methods.catrs import CATRS
from rspipe.training.methods.consistency import Consistency
from rspipe.training.methods.gaussian import Gaussian
from rspipe.training.methods.macer import MACER
from rspipe.training.methods.smoothadv import SmoothAdv
from rspipe.training.methods.smoothadv_consistency import SmoothAdvConsistency
from rspipe.training.methods.smoothmix import SmoothMix
from rspipe.training.methods.stability import Stability
from rspipe.training.process_group import Group
from rspipe.training.spec import ModelSpec, TrainingSpec
from rspipe.training.step_loss import with_common_statistics

PROCESSES = 2
METHODS: tuple[Any, ...] = (
    Gaussian(name="gaussian"),
    Stability(name="stability"),
    SmoothAdv(name="smoothadv", T=2, m=2, eps=0.25, warmup=2),
    MACER(name="macer", lbd=1.0, gamma=4.0, beta=1.0, m=3),
    AdvMacer(name="advmacer", lbd=1.0, gamma=4.0, beta=1.0, T=2, m=3, eps=0.25, warmup=2),
    Consistency(name="consistency", m=2),
    SmoothAdvConsistency(name="smoothadv_consistency", T=2, m=2, eps=0.25, warmup=2),
    SmoothMix(name="smoothmix", T=2, m=2, alpha=0.1, warmup=2, mix_step=1),
    CATRS(name="catrs", T=2, m=2, teacher_draws=4),
)
SMOOTHADV = METHODS[2]
ONE_STEP = {"epochs": 1, "lr": 1.0, "momentum": 0.0, "weight_decay": 0.0}
"""After it, the parameters have moved by the gradient."""
# In float64 a sum of some thousand terms of order one is right to 1e-12; normalization of the attack's gradients, which
# are of order 1e-2 here, and three or four steps leave less than a factor of a thousand.
CLOSE = {"rtol": 1e-9, "atol": 1e-9}

Parameters = list[NDArray[np.float64]]


class Exact(nn.Module):
    """A network without batch normalization in float64, whatever it is given."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), *layers, nn.Linear(72, 10))
        self.net.double()

    def forward(self, batch: Tensor) -> Tensor:
        logits: Tensor = self.net(batch.double())
        return logits


class Noted(nn.Module):
    """Dropout that keeps the masks which it drew in training."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.masks = nn.Dropout(0.5), list[Tensor]()

    def forward(self, batch: Tensor) -> Tensor:
        kept: Tensor = self.drop(torch.ones_like(batch))
        if self.training:
            self.masks.append(kept != 0)
        return batch * kept


def normalized(classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, classes))


ARCHITECTURES_HERE: dict[str, Callable[[int], nn.Module]] = {
    "exact": lambda _: Exact(),
    "dropping": lambda _: Exact(Noted()),
    "normalized": normalized,
}


@pytest.fixture(autouse=True, scope="module")
def architectures() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, build in ARCHITECTURES_HERE.items():
            patch.setitem(ARCHITECTURES, name, build)
        yield


def digits() -> Dataset:
    """61 digits in float64."""
    data = load_dataset(DigitsData())
    train = Split(data.train.images[:61].double(), data.train.labels[:61], data.train.index[:61])
    return replace(data, train=train)


def model_spec(method: Any, *, architecture: str = "exact", **training: Any) -> ModelSpec:
    """A model whose steps have 29, 14 or 9 images: odd numbers and an even one."""
    return ModelSpec(
        label="model",
        data=DigitsData(),
        architecture=architecture,
        method=method,
        training=TrainingSpec(**{"epochs": 2, "batch_size": 29, "lr": 0.02, **training}),
        train_sigma=0.25,
        seed=3,
    )


def one_step_spec(method: Any) -> ModelSpec:
    """A model whose only step has all images, as many for each of two processes but for one."""
    return model_spec(method, batch_size=61 * getattr(method, "m", 1), **ONE_STEP)


def parameters(done: Fit) -> Parameters:
    return [parameter.detach().numpy() for parameter in done.network.parameters()]


def gradients(done: Fit) -> Parameters:
    start = build_network("exact", classes=10, seed=3)
    return [old.detach().numpy() - new for old, new in zip(start.parameters(), parameters(done), strict=True)]


def middle_state(spec: ModelSpec, group: Group | None = None) -> bytes:
    """The state after the first epoch, as it is written to a file."""
    files: list[bytes] = []

    def keep(state: State) -> None:
        with io.BytesIO() as file:
            torch.save(state, file)
            files.append(file.getvalue())

    fit(spec, digits(), on_epoch=keep, group=group)
    return files[0]


def resumed(spec: ModelSpec, state: bytes, group: Group | None = None) -> Fit:
    return fit(spec, digits(), state=torch.load(io.BytesIO(state), weights_only=True), group=group)


def exchanges(group: Group, *, steps: int) -> int:
    """How often the processes exchange something in a training whose attacks have so many steps."""
    before = group._get_sequence_number_for_group()
    fit(model_spec(SMOOTHADV.model_copy(update={"T": steps})), digits(), group=group)
    return int(group._get_sequence_number_for_group() - before)


def _process(rank: int, port: int, state_of_one: bytes, results: Any) -> None:
    """Run in each of the processes: everything that the tests below compare."""
    torch.set_num_threads(1)
    ARCHITECTURES.update(ARCHITECTURES_HERE)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=PROCESSES)
    group = dist.group.WORLD
    assert group is not None
    data, outcome = digits(), dict[str, Any]()
    for method in METHODS:
        outcome[f"gradients {method.name}"] = gradients(fit(one_step_spec(method), data, group=group))
        done = fit(model_spec(method), data, group=group)
        outcome[method.name] = done.history, parameters(done)
        mixing = fit(model_spec(method, architecture="normalized"), single(data), group=group)
        state = [value.numpy() for value in mixing.network.state_dict().values()]
        outcome[f"normalized {method.name}"] = mixing.status, mixing.history, state
    outcome["clipped"] = parameters(fit(model_spec(SMOOTHADV, grad_clip=0.05), data, group=group))
    outcome["resumed"] = parameters(resumed(model_spec(SMOOTHADV), state_of_one, group))
    outcome["state"] = middle_state(model_spec(SMOOTHADV), group)
    outcome["exchanges"] = [exchanges(group, steps=steps) for steps in (1, 5)]
    dropped = fit(model_spec(METHODS[0], architecture="dropping"), data, group=group)
    (noted,) = (module for module in dropped.network.modules() if isinstance(module, Noted))
    outcome["masks"], outcome["dropped"] = [mask.numpy() for mask in noted.masks], parameters(dropped)
    try:
        fit(model_spec(METHODS[0], batch_size=1), data, group=group)
    except ValueError as error:
        outcome["refused"] = str(error)
    results.put((rank, outcome))
    dist.barrier()
    dist.destroy_process_group()


def single(data: Dataset) -> Dataset:
    """The data in float32."""
    return replace(data, train=replace(data.train, images=data.train.images.float()))


@pytest.fixture(scope="module")
def together() -> list[dict[str, Any]]:
    """The results of the processes, in the order of their ranks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Both come from one process, which imports for seconds what they need.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rspipe.training.fitting", "torch._dynamo.utils", __name__])
    results, state = context.Queue(), middle_state(model_spec(SMOOTHADV))
    processes = [context.Process(target=_process, args=(rank, port, state, results)) for rank in range(PROCESSES)]
    for process in processes:
        process.start()
    outcomes = dict[int, dict[str, Any]]()
    # On a busy machine they may take long, but one that has failed ends.
    while len(outcomes) < PROCESSES and all(process.exitcode in (None, 0) for process in processes):
        with suppress(queue.Empty):
            rank, outcome = results.get(timeout=1)
            outcomes[rank] = outcome
    for process in processes:
        process.join(timeout=None if len(outcomes) == PROCESSES else 1)
        process.kill()
    assert len(outcomes) == PROCESSES, [process.exitcode for process in processes]
    return [outcomes[rank] for rank in range(PROCESSES)]


each_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)


def assert_close(ours: Parameters, theirs: Parameters) -> None:
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, **CLOSE)


@each_method
def test_the_gradient_is_that_of_one_process(method: Any, together: list[dict[str, Any]]) -> None:
    expected = gradients(fit(one_step_spec(method), digits()))
    assert max(float(np.abs(gradient).max()) for gradient in expected) > 1e-3
    for outcome in together:
        assert_close(outcome[f"gradients {method.name}"], expected)


@each_method
def test_training_together_gives_the_parameters_and_the_history_of_training_alone(
    method: Any, together: list[dict[str, Any]]
) -> None:
    alone = fit(model_spec(method), digits())
    for outcome in together:
        history, ours = outcome[method.name]
        assert_close(ours, parameters(alone))
        for entry, expected in zip(history, alone.history, strict=True):
            assert entry.keys() == expected.keys()
            # The accuracy of a step is a mean in float32.
            timeless = [name for name in entry if "second" not in name]
            assert [entry[name] for name in timeless] == pytest.approx([expected[name] for name in timeless], rel=1e-6)


@each_method
def test_all_processes_end_with_the_same_bits_and_the_same_history(method: Any, together: list[dict[str, Any]]) -> None:
    first, second = together
    assert first[method.name][0] == second[method.name][0]
    for ours, theirs in zip(first[method.name][1], second[method.name][1], strict=True):
        assert np.array_equal(ours, theirs)


@each_method
def test_networks_with_batch_normalization_are_trained_and_their_statistics_agreed_on(
    method: Any, together: list[dict[str, Any]]
) -> None:
    (status, history, ours), (_, same_history, theirs) = (outcome[f"normalized {method.name}"] for outcome in together)
    assert status == "finished"
    assert history == same_history
    assert all(np.array_equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_a_gradient_is_clipped_once_it_is_that_of_all_images(together: list[dict[str, Any]]) -> None:
    spec = model_spec(SMOOTHADV, grad_clip=0.05)
    alone = parameters(fit(spec, digits()))
    free = parameters(fit(model_spec(SMOOTHADV), digits()))
    assert any(float(np.abs(one - other).max()) > 1e-3 for one, other in zip(alone, free, strict=True))
    for outcome in together:
        assert_close(outcome["clipped"], alone)


def test_training_goes_on_with_another_number_of_processes(together: list[dict[str, Any]]) -> None:
    whole = parameters(fit(model_spec(SMOOTHADV), digits()))
    for outcome in together:
        assert_close(outcome["resumed"], whole)
        assert_close(parameters(resumed(model_spec(SMOOTHADV), outcome["state"])), whole)


def test_the_steps_of_an_attack_exchange_nothing(together: list[dict[str, Any]]) -> None:
    for outcome in together:
        few, many = outcome["exchanges"]
        assert few == many > 0


def test_every_process_drops_others_and_the_same_again(together: list[dict[str, Any]]) -> None:
    first, second = (outcome["masks"] for outcome in together)
    # Two steps of 29 images, 14 of them the first one's, and as many again in the next epoch.
    assert [len(mask) for mask in first] == [14] * 4
    assert not any(np.array_equal(one, other[:14]) for one, other in zip(first, second, strict=True))
    for ours, theirs in zip(together[0]["dropped"], together[1]["dropped"], strict=True):
        assert np.array_equal(ours, theirs)


def test_a_step_with_fewer_images_than_processes_is_refused(together: list[dict[str, Any]]) -> None:
    for outcome in together:
        assert outcome["refused"] == "a step of 1 images cannot be shared by 2 processes; use fewer"


def test_common_statistics_leave_the_network_itself_as_it_is() -> None:
    network = build_network("cifar_resnet20", classes=3, seed=0)
    names, kinds = list(network.state_dict()), [type(module) for module in network.modules()]
    twin = with_common_statistics(network, dist.ProcessGroup(0, 1))
    assert [type(module) for module in network.modules()] == kinds
    assert list(network.state_dict()) == names == list(twin.state_dict())
    ours, theirs = ({id(value) for value in (*n.parameters(), *n.buffers())} for n in (twin, network))
    assert ours == theirs
    layers = [module for module in twin.modules() if isinstance(module, nn.SyncBatchNorm)]
    assert len(layers) == kinds.count(nn.BatchNorm2d) > 10
