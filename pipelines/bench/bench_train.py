"""Training speed: images per second of methods, against a straightforward loop.

CAT-RS, which needs a teacher, and the recipe of acr_weakness, which discards images, are left out.

Every figure is a ratio taken in one run on one machine; rates of different runs or machines are not comparable.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import tyro
from bench_certify import MATMUL, matmul_rate, medians
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from rspipe.data.spec import DigitsData
from rspipe.data.splits import Dataset, Split
from rspipe.execution.worker import keep_freed_memory, set_deterministic
from rspipe.networks.architectures import build_network
from rspipe.networks.precision import fastest_precision
from rspipe.storage.environment import environment
from rspipe.training.fitting import fit
from rspipe.training.methods import MethodSpec
from rspipe.training.methods.advmacer import AdvMacer
from rspipe.training.methods.consistency import Consistency
from rspipe.training.methods.gaussian import Gaussian
from rspipe.training.methods.macer import MACER
from rspipe.training.methods.method import noisy_batch
from rspipe.training.methods.smoothadv import SmoothAdv
from rspipe.training.methods.smoothadv_consistency import SmoothAdvConsistency
from rspipe.training.methods.smoothmix import SmoothMix
from rspipe.training.methods.stability import Stability
from rspipe.training.randomness import Draws
from rspipe.training.spec import ModelSpec, TrainingSpec

METHODS: dict[str, MethodSpec] = {
    "gaussian": Gaussian(name="gaussian"),
    "stability": Stability(name="stability"),
    "smoothadv": SmoothAdv(name="smoothadv", T=2, m=8, warmup=0),
    "macer": MACER(name="macer", m=16, lbd=4.0, gamma=8.0, beta=16.0),
    "advmacer": AdvMacer(name="advmacer", T=2, m=8, lbd=4.0, gamma=8.0, beta=16.0, warmup=0),
    "consistency": Consistency(name="consistency", m=2),
    "smoothadv_consistency": SmoothAdvConsistency(name="smoothadv_consistency", T=2, m=2, warmup=0),
    "smoothmix": SmoothMix(name="smoothmix", T=2, m=2, alpha=0.5, warmup=0),
}
SHAPE, CLASSES, SIGMA = (3, 32, 32), 10, 0.5
ONE_PASS, PER_COPY = "loop, one pass", "loop, pass per copy"
"""The straightforward loop: the reference implementations run all noisy copies at once, a reader's might not."""


@dataclass(frozen=True)
class Options:
    """Command line."""

    methods: tuple[str, ...] = tuple(METHODS)
    architecture: str = "cifar_resnet20"
    batch_size: int = 256
    steps: int = 2
    """Optimizer steps of a measurement."""
    repeats: int = 3
    """Measurements of each rate, taken in turns with what it is compared with; the median counts."""
    threads: int = torch.get_num_threads()
    compiled: bool = torch.cuda.is_available()
    """Whether to measure compiled training, too."""
    profile: str | None = None
    """A method: print where the time of its training in the faster precision goes instead."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"

    @property
    def ways(self) -> tuple[str, ...]:
        """What is compared with the loop; bfloat16 where it is no slower than float32, or takes minutes a step."""
        if fastest_precision(torch.device(self.device)) == "float32":
            return ("float32",)
        return ("float32", "bfloat16", *(("compiled",) if self.compiled else ()))


class _Pictures(TorchDataset[tuple[Tensor, int]]):
    """Images as files hold them, augmented one by one."""

    def __init__(self, data: Dataset) -> None:
        self._pixels = (data.train.images.cpu() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        self._labels = data.train.labels.tolist()

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture = Image.fromarray(np.pad(self._pixels[index], ((4, 4), (4, 4), (0, 0))))
        top, left = np.random.randint(0, 9, 2).tolist()  # noqa: NPY002
        picture = picture.crop((left, top, left + SHAPE[2], top + SHAPE[1]))
        if np.random.random() < 0.5:  # noqa: NPY002
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255, self._labels[index]


class _InPasses(nn.Module):
    """The network, run on all noisy copies of the images at once, or once per copy."""

    def __init__(self, network: nn.Module, passes: int) -> None:
        super().__init__()
        self.network, self.passes = network, passes

    def forward(self, noisy: Tensor) -> Tensor:
        if self.passes == 1 or len(noisy) % self.passes:
            logits: Tensor = self.network(noisy)
            return logits
        each = noisy.unflatten(0, (-1, self.passes)).unbind(1)
        return torch.stack([self.network(copy) for copy in each], 1).flatten(0, 1)


def straightforward(spec: ModelSpec, data: Dataset, *, device: str, passes: int) -> float:
    """Train in float32, NCHW, from a DataLoader, in so many forward passes a step; return images per second."""
    method = spec.method
    network = build_network(spec.architecture, classes=CLASSES, seed=0).to(device)
    looped = _InPasses(network, passes).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
    generator = torch.Generator(device).manual_seed(0)
    draws = Draws(generator, generator)
    loader = DataLoader(_Pictures(data), batch_size=method.images_per_step(spec.training.batch_size), shuffle=True)
    began, seen = time.perf_counter(), 0
    for images, labels in loader:
        batch = noisy_batch(
            images.to(device), labels.to(device), copies=method.copies, sigma=SIGMA, epoch=10**6, draws=draws
        )
        terms = method.loss(looped, batch)
        optimizer.zero_grad()
        torch.autograd.backward(terms.loss)
        optimizer.step()
        seen += len(images)
    _wait(device)
    return seen / (time.perf_counter() - began)


def rspipe_rate(spec: ModelSpec, data: Dataset, *, device: str) -> float:
    """Train one epoch as the training stage does; return images per second."""
    history = fit(spec, data).history
    _wait(device)
    return len(data.train) / history[0]["seconds"]


def last_epoch_rate(spec: ModelSpec, data: Dataset, *, device: str) -> float:
    """Train two epochs; return images per second of the second."""
    twice = spec.model_copy(update={"training": spec.training.model_copy(update={"epochs": 2})})
    history = fit(twice, data).history
    _wait(device)
    return len(data.train) / history[1]["seconds"]


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def model_spec(method: MethodSpec, options: Options, *, precision: str, compiled: bool = False) -> ModelSpec:
    """Return a model of one epoch."""
    training: dict[str, Any] = {"epochs": 1, "batch_size": options.batch_size, "lr": 1e-3, "precision": precision}
    training["compiled"] = compiled
    return ModelSpec(
        label="model",
        # Only its name: the images are those of `random_images`.
        data=DigitsData(),
        architecture=options.architecture,
        method=method,
        training=TrainingSpec(**training),
        train_sigma=SIGMA,
        seed=0,
    )


def random_images(count: int, device: str) -> Dataset:
    """Return images of CIFAR's shape, on the device."""
    generator = torch.Generator().manual_seed(0)

    def split(n: int) -> Split:
        images = torch.rand((n, *SHAPE), generator=generator)
        return Split(images, torch.arange(n) % CLASSES, torch.arange(n)).to(torch.device(device))

    return Dataset("random", CLASSES, "crop_flip", split(count), split(10), split(10), split(10))


def operations(spec: ModelSpec, data: Dataset) -> float:
    """Return the floating-point operations of matrix products and convolutions that training takes per image."""
    from torch.utils.flop_counter import FlopCounterMode

    def counted(times: int) -> int:
        with FlopCounterMode(display=False) as counter:
            fit(spec, random_images(times * len(data.train), str(data.train.labels.device)))
        return int(counter.get_total_flops())

    # What is done once, as validation is, is in both.
    return (counted(2) - counted(1)) / len(data.train)


def measured(options: Options) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield, for each method, rates by the name of what was measured: images, and matrix products, per second.

    `operations` are floating-point operations per image.
    """
    for name in options.methods:
        method = METHODS[name]
        data = random_images(options.steps * method.images_per_step(options.batch_size), options.device)
        spec = partial(model_spec, method, options)
        measures: dict[str, Callable[[], float]] = {
            ONE_PASS: partial(straightforward, spec(precision="float32"), data, device=options.device, passes=1),
            PER_COPY: partial(
                straightforward, spec(precision="float32"), data, device=options.device, passes=method.copies
            ),
            "float32": partial(rspipe_rate, spec(precision="float32"), data, device=options.device),
        }
        if "bfloat16" in options.ways:
            measures["bfloat16"] = partial(rspipe_rate, spec(precision="bfloat16"), data, device=options.device)
        if "compiled" in options.ways:
            compiled = spec(precision="bfloat16", compiled=True)
            # Compilation happens in the first epoch.
            measures["compiled"] = partial(last_epoch_rate, compiled, data, device=options.device)
        for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))[: len(options.ways)]:
            measures[f"matmul {precision}"] = matmul_rate(dtype, device=options.device)
        for measure in measures.values():
            measure()
        figures = medians(measures, repeats=options.repeats)
        yield name, {**figures, "operations": operations(spec(precision="float32"), data)}


def profile(options: Options, console: Console) -> None:
    """Print where the time of training goes, by kind of operation."""
    method = METHODS[str(options.profile)]
    data = random_images(options.steps * method.images_per_step(options.batch_size), options.device)
    spec = model_spec(method, options, precision=fastest_precision(torch.device(options.device)))
    fit(spec, data)
    with torch.profiler.profile() as trace:
        fit(spec, data)
    console.print(trace.key_averages().table(sort_by=f"self_{options.device}_time_total", row_limit=20))


def main(options: Options) -> None:
    """Measure."""
    # As a worker of the stage.
    set_deterministic(threads=options.threads)
    keep_freed_memory()
    console = Console(width=140)
    console.print(
        f"torch {torch.__version__}, {environment()['cpu']}, {torch.backends.cpu.get_cpu_capability()}, "
        f"{options.threads} threads, {options.device}; {options.architecture}, batch {options.batch_size}"
    )
    if options.profile is not None:
        profile(options, console)
        return
    table = Table(title="Images per second; to reach: bfloat16 / loop >= 1.7 on a CPU that has it, >= 3 on a GPU")
    ways = options.ways
    loops = (ONE_PASS, PER_COPY)
    over = [(way, loop) for way in ways for loop in loops]
    columns = (*loops, *ways, *(f"{way} / {loop}" for way, loop in over), *(f"{way}, share of matmul" for way in ways))
    for column in ("method", *columns):
        table.add_column(column, justify="right")
    for name, rates in measured(options):
        ratios = [f"{rates[way] / rates[loop]:.2f}" for way, loop in over]
        shares = [
            rates[way]
            * rates["operations"]
            / (2 * MATMUL**3 * rates[f"matmul {way if way == 'float32' else 'bfloat16'}"])
            for way in ways
        ]
        cells = [f"{rates[way]:,.1f}" for way in (*loops, *ways)]
        table.add_row(name, *cells, *ratios, *(f"{100 * share:.0f} %" for share in shares))
        console.print(f"{name}: {', '.join(f'{r} {w} / {lo}' for r, (w, lo) in zip(ratios, over, strict=True))}")
    console.print(table)
    console.print(
        "Share of matmul: operations of convolutions and products per second, over those of a product of "
        f"{MATMUL} x {MATMUL} matrices in the same precision."
    )


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
