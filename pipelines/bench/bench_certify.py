"""Certification speed: rspipe against the published loop, Ray against a plain loop, ensembles against their members.

Every figure is a ratio taken in one run on one machine; rates of different runs or machines are not comparable.
"""

import io
import logging
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import tyro
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from rspipe.data.sources import load_dataset
from rspipe.execution.board import Progress
from rspipe.execution.connection import connect
from rspipe.execution.resources import Resources
from rspipe.execution.worker import keep_freed_memory, set_deterministic
from rspipe.networks.architectures import build_network
from rspipe.networks.deployment import deploy
from rspipe.networks.precision import Precision, fastest_precision
from rspipe.records import TrainedModel
from rspipe.smoothing.classifiers import Classifier
from rspipe.smoothing.counting import count_image
from rspipe.smoothing.noise import Noise, NoiseKind, Stream, default_batch, noisy_batches
from rspipe.smoothing.spec import CertifySpec
from rspipe.stages.certify import certify_classifiers
from rspipe.storage.environment import environment
from rspipe.storage.files import checksum
from rspipe.storage.store import Store
from rspipe.study.config import StudyConfig
from rspipe.training.spec import AnyModelSpec

SHAPES = {
    "digits_cnn": (1, 8, 8),
    "digits_mlp": (1, 8, 8),
    "lenet": (1, 28, 28),
    "cifar_resnet8": (3, 32, 32),
    "cifar_resnet20": (3, 32, 32),
    "cifar_resnet110": (3, 32, 32),
    # A quarter of ImageNet's sides: the same layers in a tenth of the time.
    "resnet50": (3, 64, 64),
}
BATCHES = {"resnet50": (20, 100)}
"""Batch sizes of the published loop, where they are not 100, 400 and 1,000."""
CLASSES, SIGMA, MATMUL = 10, 0.25, 2048
WORKERS = os.cpu_count() or 1
PRECISIONS: dict[Precision, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SLOW_WORK = 1e9
"""Multiply-adds that show how slow bfloat16 is where there are no instructions for it."""
CONSOLE = Console(width=180)
# That bfloat16 is the slower one here stands in the first line, and need not be said of every network.
logging.getLogger("rspipe.networks").setLevel(logging.ERROR)
Part = Literal["memory", "noise", "forward", "ensembles", "ray"]


def is_slow(precision: Precision, device: str | torch.device = "cpu") -> bool:
    """Return whether a precision is emulated here, and takes some ten times as long as float32."""
    return precision not in ("float32", fastest_precision(torch.device(device)))


@dataclass(frozen=True)
class Options:
    """Command line."""

    parts: tuple[Part, ...] = ("memory", "noise", "forward", "ensembles", "ray")
    architectures: tuple[str, ...] = tuple(SHAPES)
    """Of the forward part."""
    seconds: float = 3.0
    """Time of a measurement; every one is repeated."""
    repeats: int = 3
    """Measurements of each rate, taken in turns with what it is compared with; the median counts."""
    ray_seconds: float = 180.0
    """Work of the plain loop that Ray is compared with, about."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"


def samples_of(architecture: str, precision: Precision, x: Tensor) -> int:
    """Return the samples of a short measurement: a batch, or fewer where a precision is slow."""
    batch = default_batch(x, block_size=1000)
    if not is_slow(precision, x.device):
        return batch
    return min(batch, max(20, round(SLOW_WORK / multiply_adds(architecture))))


def network_of(architecture: str, *, seed: int = 0) -> nn.Module:
    """Return an untrained network with the statistics of a trained one's batch normalization, in eval mode."""
    network = build_network(architecture, classes=CLASSES, seed=seed)
    # A pass in train mode: with its initial statistics an untrained ResNet overflows nothing but says one class only.
    with torch.no_grad():
        network.train()(torch.rand(50, *SHAPES[architecture]))
    return network.eval()


def image_of(architecture: str) -> Tensor:
    """Return an image of 8 bits, as nearly all are."""
    return torch.randint(0, 256, SHAPES[architecture]) / 255


def published_loop(network: nn.Module, x: Tensor, *, n: int, batch: int) -> np.ndarray[Any, Any]:
    """Count classes as the reference implementations do: float32, NCHW, a batch at a time, counted on the host."""
    counts = np.zeros(CLASSES, dtype=int)
    with torch.no_grad():
        for begin in range(0, n, batch):
            repeated = x.repeat((min(batch, n - begin), 1, 1, 1))
            noise = torch.randn_like(repeated) * SIGMA
            for prediction in network(repeated + noise).argmax(1).cpu().numpy():
                counts[prediction] += 1
    return counts


def certification(
    networks: Sequence[nn.Module], x: Tensor, *, n: int, classifiers: Sequence[Classifier], precision: Precision
) -> None:
    """Count classes as the certification stage does."""
    # One sample selects: what is measured is the estimation.
    spec = CertifySpec(n0=1, n=n, precision=precision)
    count_image(networks, classifiers, x, label=None, sigma=SIGMA, spec=spec, example=0, classes=CLASSES)


def singles(k: int) -> list[Classifier]:
    """Return the members alone."""
    return [Classifier(f"model {member}", (member,), (1.0,)) for member in range(k)]


def timed(call: Callable[..., Any], *, least: int, seconds: float, device: str) -> Callable[[], float]:
    """Return a function that measures samples per second of `call(n=...)`, with n chosen to last so long."""

    def once(n: int) -> float:
        began = time.perf_counter()
        call(n=n)
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    once(least)
    n = least * max(1, round(seconds / once(least)))
    return lambda: n / once(n)


def _work(architecture: str, precision: Precision, seconds: float) -> tuple[int, float]:
    """Run one worker as the stage does, with one thread, for about so long; return its samples and their time."""
    set_deterministic()
    keep_freed_memory()
    x, networks = image_of(architecture), [deploy(network_of(architecture), precision=precision)]
    batch = samples_of(architecture, precision, x)
    call = partial(certification, networks, x, classifiers=singles(1), precision=precision)
    call(n=batch)
    began = time.perf_counter()
    call(n=batch)
    n = batch * max(1, round(seconds / (time.perf_counter() - began)))
    began = time.perf_counter()
    call(n=n)
    return n, time.perf_counter() - began


def workers_rate(pool: ProcessPoolExecutor, architecture: str, precision: Precision, *, seconds: float) -> float:
    """Return samples per second of one single-thread worker per CPU, as the stage starts them."""
    jobs = [pool.submit(_work, architecture, precision, seconds) for _ in range(WORKERS)]
    return sum(n / spent for n, spent in (job.result() for job in jobs))


def medians(measures: dict[str, Callable[[], float]], *, repeats: int) -> dict[str, float]:
    """Return the median of each measurement; they take turns, so that a slow moment hits all."""
    figures = {name: [] for name in measures}
    for _ in range(repeats):
        for name, measure in measures.items():
            figures[name].append(measure())
    return {name: float(np.median(values)) for name, values in figures.items()}


def matmul_rate(dtype: torch.dtype, *, device: str) -> Callable[[], float]:
    """Return a function that measures the machine's matmul rate in products per second."""
    a, b = (torch.randn(MATMUL, MATMUL, device=device).to(dtype) for _ in range(2))

    def multiply(*, n: int) -> None:
        for _ in range(n):
            torch.matmul(a, b)

    return timed(multiply, least=1, seconds=1.0, device=device)


def multiply_adds(architecture: str) -> float:
    """Return the multiply-adds of one sample."""
    from torch.utils.flop_counter import FlopCounterMode

    network = network_of(architecture)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.rand(1, *SHAPES[architecture]))
    return counter.get_total_flops() / 2


def forward(options: Options) -> None:
    """Print samples per second of the published loop and of rspipe, per architecture."""
    table = Table(title=f"Samples per second on {options.device}, one classifier")
    # For both sides, as in a worker, and whatever part ran before.
    keep_freed_memory()
    columns = ("network", "rspipe as", "loop, largest", "loop, best", "float32", "bfloat16", "float32 / best")
    columns += ("bfloat16 / best", "bfloat16 / largest", "share of matmul, float32", "bfloat16")
    for column in columns:
        table.add_column(column, justify="right")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(WORKERS, mp_context=context) as pool:
        for architecture in options.architectures:
            figures = medians(_measures(architecture, options, pool), repeats=options.repeats)
            work = multiply_adds(architecture) / MATMUL**3
            sizes = batches(architecture)
            best = max(sizes, key=lambda batch, figures=figures: figures[f"loop {batch}"])
            top, largest = figures[f"loop {best}"], figures[f"loop {sizes[-1]}"]
            for mode in ("one process", f"{WORKERS} workers"):
                if f"{mode} float32" not in figures:
                    continue
                single, half = figures[f"{mode} float32"], figures[f"{mode} bfloat16"]
                rates = (f"{largest:,.0f} ({sizes[-1]})", f"{top:,.0f} ({best})", f"{single:,.0f}", f"{half:,.0f}")
                ratios = (f"{rate:.2f}" for rate in (single / top, half / top, half / largest))
                shares = (
                    f"{100 * rate * work / figures[name]:.0f} %" if (name := f"matmul {precision}") in figures else "–"
                    for rate, precision in zip((single, half), PRECISIONS, strict=True)
                )
                name = f"{architecture}, {SHAPES[architecture][1]} px"
                table.add_row(name, mode, *rates, *ratios, *shares)
    CONSOLE.print(table)


def batches(architecture: str) -> tuple[int, ...]:
    """Return the batch sizes of the published loop."""
    return BATCHES.get(architecture, (100, 400, 1000))


def _measures(architecture: str, options: Options, pool: ProcessPoolExecutor) -> dict[str, Callable[[], float]]:
    """Return what is measured of an architecture, by name."""
    plain = network_of(architecture).to(options.device)
    x = image_of(architecture).to(options.device)
    measures: dict[str, Callable[[], float]] = {}
    for batch in batches(architecture):
        call = partial(published_loop, plain, x, batch=batch)
        measures[f"loop {batch}"] = timed(call, least=batch, seconds=options.seconds, device=options.device)
    for precision, dtype in PRECISIONS.items():
        networks, least = [deploy(plain, precision=precision)], samples_of(architecture, precision, x)
        seconds = 0.0 if is_slow(precision, x.device) else options.seconds
        call = partial(certification, networks, x, classifiers=singles(1), precision=precision)
        measures[f"one process {precision}"] = timed(call, least=least, seconds=seconds, device=options.device)
        if options.device == "cpu":
            together = partial(workers_rate, pool, architecture, precision, seconds=seconds)
            measures[f"{WORKERS} workers {precision}"] = together
        if not is_slow(precision, x.device):
            # Emulated, one product takes ten seconds.
            measures[f"matmul {precision}"] = matmul_rate(dtype, device=options.device)
    return measures


def ensembles(options: Options) -> None:
    """Print the cost of twenty ensembles of six members against that of the members alone."""
    table = Table(title="Six members and twenty ensembles of them against the six members, time (to reach: <= 1.15)")
    for column in ("network", "precision", "probabilities", "logits", "MME", "consensus"):
        table.add_column(column, justify="right")
    # As in a worker of the stage.
    set_deterministic()
    keep_freed_memory()
    k = 6
    for architecture in options.architectures:
        if architecture in ("cifar_resnet110", "resnet50"):
            continue
        x = image_of(architecture).to(options.device)
        plain = [network_of(architecture, seed=seed).to(options.device) for seed in range(k)]
        for precision in (one for one in PRECISIONS if not is_slow(one, options.device)):
            networks = [deploy(network, precision=precision) for network in plain]
            kinds: dict[str, dict[str, Any]] = {
                "probabilities": {"average": "probabilities"},
                "logits": {"average": "logits"},
                "MME": {"combination": "mme"},
                "consensus": {"average": "probabilities", "combination": "consensus", "consensus_size": 2},
            }
            banks = {name: [*singles(k), *_twenty(k, **kind)] for name, kind in kinds.items()}
            measures = {}
            for name, bank in {"members": singles(k), **banks}.items():
                call = partial(certification, networks, x, classifiers=bank, precision=precision)
                least = default_batch(x, block_size=1000)
                measures[name] = timed(call, least=least, seconds=options.seconds, device=options.device)
            figures = medians(measures, repeats=options.repeats)
            table.add_row(architecture, precision, *(f"{figures['members'] / figures[name]:.3f}" for name in banks))
    CONSOLE.print(table)


def _twenty(k: int, **kind: Any) -> list[Classifier]:
    """Return twenty ensembles of three to k members with different weights."""
    rng, made = np.random.default_rng(0), []
    for number in range(20):
        members = tuple(sorted(rng.choice(k, size=rng.integers(3, k + 1), replace=False).tolist()))
        weights = rng.dirichlet(np.ones(len(members)))
        made.append(Classifier(f"ensemble {number}", members, tuple((weights / weights.sum()).tolist()), **kind))
    return made


RAY_NETWORK = "cifar_resnet20"
RAY_SAMPLES = 5_000


def ray_stage(options: Options) -> None:
    """Print the cost of the certification stage on Ray Data against a plain loop over the same images."""
    # Like a worker of the stage: what is left is the cost of Ray.
    set_deterministic()
    keep_freed_memory()
    network, precision = network_of(RAY_NETWORK), fastest_precision(torch.device("cpu"))
    deployed, x = [deploy(network, precision=precision)], image_of(RAY_NETWORK)
    certification(deployed, x, n=1000, classifiers=singles(1), precision=precision)
    began = time.perf_counter()
    certification(deployed, x, n=RAY_SAMPLES, classifiers=singles(1), precision=precision)
    images = round(options.ray_seconds / (time.perf_counter() - began))
    with tempfile.TemporaryDirectory() as folder:
        study = _study(Path(folder), images=images, precision=precision)
        split = load_dataset(study.data).test
        began = time.perf_counter()
        for image, example in zip(split.images, split.index.tolist(), strict=True):
            spec = study.certify
            count_image(
                deployed, singles(1), image, label=None, sigma=SIGMA, spec=spec, example=example, classes=CLASSES
            )
        loop = time.perf_counter() - began
        CONSOLE.print(
            f"{images} images, {RAY_NETWORK}, {precision}, n = {RAY_SAMPLES:,}; plain loop, one thread: {loop:.1f} s"
        )
        # On the CPU, as the loop is.
        cases = {
            "one actor of one thread": Resources(cpus_per_worker=1, workers=1, cpus=2, gpus_per_worker=0.0),
            "one actor of two threads": Resources(
                cpus_per_worker=2, workers=1, threads_per_worker=2, cpus=2, gpus_per_worker=0.0
            ),
            "two actors of one thread": Resources(cpus_per_worker=1, workers=2, cpus=2, gpus_per_worker=0.0),
        }
        times = {}
        for name, resources in cases.items():
            times[name], first, traffic = _stage(Path(folder) / name.replace(" ", "-"), study, network, resources)
            CONSOLE.print(
                f"{name}: {times[name]:.1f} s, of them {first:.1f} s until the first image was done; "
                f"object store: {traffic / images / 1e3:.1f} kB per image (to reach: < 1,000)"
            )
    one, two, both = times.values()
    CONSOLE.print(f"Ray Data stage / plain loop, one thread each, start included: {one / loop:.3f} (to reach: <= 1.05)")
    CONSOLE.print(f"two actors of one thread against one of two, rate: {two / both:.3f} (to reach: >= 0.90)")


def _study(folder: Path, *, images: int, precision: Precision) -> StudyConfig:
    """Return a study of random images of CIFAR's shape."""
    rng = np.random.default_rng(0)
    for name, count in (("train", 30), ("test", images)):
        encoded = []
        for pixels in rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8):
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, format="PNG")
            encoded.append(buffer.getvalue())
        pq.write_table(pa.table({"image": encoded, "label": np.arange(count) % CLASSES}), folder / f"{name}.parquet")
    data = {
        "name": "parquet",
        "title": "random images",
        "folder": str(folder),
        "train": "train.parquet",
        "test": "test.parquet",
    }
    return StudyConfig.model_validate(
        {
            "name": "bench",
            "data": {**data, "classes": CLASSES, "validation": 10, "calibration": 10},
            "models": [
                {
                    "label": "net",
                    "method": {"name": "gaussian"},
                    "architecture": RAY_NETWORK,
                    "training": {},
                    "sigma": SIGMA,
                    "seeds": 0,
                }
            ],
            "certify": {"n": RAY_SAMPLES, "precision": precision},
        }
    )


def save_untrained(store: Store, spec: AnyModelSpec, parameters: dict[str, torch.Tensor]) -> TrainedModel:
    """Store parameters as those of a trained model; return its record."""
    record = TrainedModel(
        id=spec.id,
        label=spec.label,
        source=spec.source,
        train_sigma=spec.train_sigma,
        seed=spec.seed,
        spec=spec.model_dump(mode="json"),
        status="finished",
        message="",
        collapsed=False,
        history=(),
        clean_accuracy=0.0,
        noisy_accuracy=0.0,
        seconds=0.0,
        passes=0,
        parameters=sum(parameter.numel() for parameter in parameters.values()),
        device="cpu",
        precision="float32",
        checksum=checksum(parameters),
        normalization=None,
        input_shape=SHAPES[spec.architecture],
        answers=None,
    )
    store.save_model(record, parameters)
    return record


def _stage(run_dir: Path, study: StudyConfig, network: nn.Module, resources: Resources) -> tuple[float, float, float]:
    """Return the time of the certification stage, that until its first image, and bytes put into the object store."""
    run_dir.mkdir()
    store, state = Store(run_dir), network.state_dict()
    (run_dir / "study.json").write_text("{}")
    (spec,) = study.model_specs
    record = save_untrained(store, spec, state)
    first: list[float] = []

    def on_progress(progress: Progress) -> None:
        if progress.done > 0 and not first:
            first.append(time.perf_counter() - began)

    with connect(address="local", resources=resources, log=run_dir / "ray.log") as cluster:
        before = _stored_bytes()
        began = time.perf_counter()
        certify_classifiers(store, study, [record], [], cluster=cluster, on_progress=on_progress)
        return time.perf_counter() - began, first[0], _stored_bytes() - before


def _stored_bytes() -> float:
    """Return the bytes that were ever created in the object store."""
    import ray
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address

    # Not any other Ray of this machine.
    state = get_state_from_address(ray.get_runtime_context().gcs_address)
    return float(get_memory_info_reply(state).store_stats.cumulative_created_bytes)


def memory(_: Options) -> None:
    """Print how much memory certification takes by n."""
    precision = fastest_precision(torch.device("cpu"))
    networks = [deploy(network_of("cifar_resnet20"), precision=precision)]
    x, peaks = image_of("cifar_resnet20"), {}
    for n in (1_000, 1_000, 20_000):
        certification(networks, x, n=n, classifiers=singles(1), precision=precision)
        peaks[n] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    CONSOLE.print("Peak memory of the process: " + ", ".join(f"n = {n:,}: {peak:,.0f} MB" for n, peak in peaks.items()))


NOISE_MS = 20


def noise(options: Options) -> None:
    """Print the CPU time of 1,000 noisy inputs of 3x32x32, on the grid of 8 bits and in float32, by one thread."""
    table = Table(title=f"CPU milliseconds per 1,000 noisy inputs of 3x32x32 (to reach: {NOISE_MS}, and float)")
    for column in ("sigma", "grid", "float", "torch.randn", "grid / float"):
        table.add_column(column, justify="right")
    set_deterministic()
    keep_freed_memory()
    x = image_of("cifar_resnet20")

    def drawn(kind: NoiseKind, sigma: float) -> None:
        for _ in noisy_batches(x, Noise(0, 0, kind=kind), Stream.ESTIMATION, sigma=sigma, n=1000):
            pass

    def published(sigma: float) -> None:
        for _ in range(10):
            x.repeat(100, 1, 1, 1).add_(torch.randn(100, *x.shape), alpha=sigma)

    def spent(call: Callable[[], None]) -> float:
        began = time.thread_time()
        call()
        return 1e3 * (time.thread_time() - began)

    for sigma in (0.12, 0.25, 0.5, 1.0):
        calls = {kind: partial(drawn, kind, sigma) for kind in ("grid", "float")}
        calls["torch.randn"] = partial(published, sigma)
        figures = medians({name: partial(spent, call) for name, call in calls.items()}, repeats=10 * options.repeats)
        shown = (f"{figures[name]:.1f}" for name in calls)
        table.add_row(f"{sigma:g}", *shown, f"{figures['grid'] / figures['float']:.2f}")
    CONSOLE.print(table)


PARTS: dict[Part, Callable[[Options], None]] = {
    "memory": memory,
    "noise": noise,
    "forward": forward,
    "ensembles": ensembles,
    "ray": ray_stage,
}


def main(options: Options) -> None:
    """Measure."""
    CONSOLE.print(
        f"torch {torch.__version__}, {environment()['cpu']}, {torch.backends.cpu.get_cpu_capability()}, "
        f"{os.cpu_count()} CPUs, {options.device}; faster here: {fastest_precision(torch.device(options.device))}"
    )
    for part in (one for one in PARTS if one in options.parts):
        # Some behave like a worker, with one thread and its own memory: each part in a process of its own.
        process = multiprocessing.get_context("spawn").Process(target=PARTS[part], args=(options,))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"the part {part} failed")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
