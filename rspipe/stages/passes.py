"""Ray Data passes over images: rows (pass, example, image) stream to actors that expand them into noisy samples.

Noise never travels: an actor draws it on its own device. One row is one image, one block a few images, and a block
is either finished or not.
"""

import logging
import math
import platform
import queue
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import nn

from rspipe.data.splits import Split
from rspipe.ensembles.moments import image_margins
from rspipe.ensembles.spec import WeighSpec
from rspipe.errors import BrokenModelError, ClusterError, ModelError, RspipeError, WorkersLostError
from rspipe.execution.board import make_deadlines, pool, replace_hung, sealed
from rspipe.execution.failures import passing, root_cause
from rspipe.execution.hanging import Held
from rspipe.execution.resources import Cluster, Patience, Resources
from rspipe.execution.worker import device_text, keep_freed_memory, set_deterministic, worker_device
from rspipe.networks.precision import Precision
from rspipe.records import TrainedModel
from rspipe.smoothing.classifiers import BatchLimit, Classifier
from rspipe.smoothing.counting import count_image
from rspipe.smoothing.noise import Noise
from rspipe.smoothing.spec import CertifySpec
from rspipe.stages.memory import memory_for
from rspipe.storage.classifiers import load_network
from rspipe.storage.counts import count_rows
from rspipe.storage.store import Store

_log = logging.getLogger(__name__)


_FRUITLESS_POOLS = 3

_IMAGES_PER_BLOCK = 4

# Beyond so many numbers of noisy input, summed over members, an image is a block of its own: less is lost in a kill.
_NUMBERS_PER_BLOCK = 2e7

_LOOK_SECONDS = 1.0

_START_SECONDS = 300.0

_STAGE = "the pass over the images"

_NAMED = 3
"""Of the models of a pass, those that a line names."""


@dataclass(frozen=True)
class CountPass:
    """Count the classes that classifiers return."""

    sigma: float
    members: tuple[str, ...]
    """Ids of the models that run."""
    classifiers: tuple[Classifier, ...]
    keys: tuple[str, ...]
    """Of each classifier, the identity of what determines its counts."""
    certify: CertifySpec
    classes: int

    @property
    def precision(self) -> Precision:
        """Of the forward pass."""
        return self.certify.precision

    @property
    def forward_samples(self) -> int:
        """Samples of an image that members run on, at most, summed over members."""
        return self.samples * len(self.members)

    @property
    def samples(self) -> int:
        """Samples of an image, at most."""
        return self.certify.n0 + self.certify.n

    def drawn(self, rows: pa.Table) -> int:
        """Return the samples of the image that rows are of."""
        return int(pc.max(rows["samples"]).as_py())

    def run(
        self, networks: Sequence[nn.Module], image: torch.Tensor, label: int, example: int, *, limit: BatchLimit
    ) -> pa.Table:
        """Return a row of the count table for each classifier; the label may only stop a count, never change it."""
        counts = count_image(
            networks,
            self.classifiers,
            image,
            label=label,
            sigma=self.sigma,
            spec=self.certify.sampling,
            example=example,
            classes=self.classes,
            limit=limit,
        )
        return count_rows(counts, keys=self.keys, spec=self.certify, device=device_text(image.device))


@dataclass(frozen=True)
class MomentPass:
    """Estimate the moments of the members' label margins."""

    sigma: float
    members: tuple[str, ...]
    averages: tuple[str, ...]
    """Whether the margins are of probabilities, of logits or of both, from the same forward passes."""
    weigh: WeighSpec
    precision: Precision

    @property
    def forward_samples(self) -> int:
        """Samples of an image that members run on, summed over members."""
        return self.samples * len(self.members)

    @property
    def samples(self) -> int:
        """Samples of an image."""
        return self.weigh.draws

    def drawn(self, _: pa.Table) -> int:
        """Return the samples of an image."""
        return self.samples

    def run(
        self, networks: Sequence[nn.Module], image: torch.Tensor, label: int, example: int, *, limit: BatchLimit
    ) -> pa.Table:
        """Return a row for each average, with the flattened arrays of its `ImageMargins`."""
        margins = image_margins(
            networks,
            image,
            label,
            Noise(self.weigh.seed, example),
            averages=self.averages,
            sigma=self.sigma,
            draws=self.weigh.draws,
            limit=limit,
        )
        arrays: list[dict[str, np.ndarray[Any, Any]]] = [
            {
                "mean": of_average.moments.mean,
                "covariance": of_average.moments.covariance,
                "label_probability": of_average.label_probability,
                "margins": of_average.margins,
            }
            for of_average in margins.values()
        ]
        return pa.table(
            {
                "example": [example] * len(arrays),
                "average": list(margins),
                **{name: [one[name].ravel() for one in arrays] for name in arrays[0]},
            }
        )


Pass = CountPass | MomentPass


@dataclass(frozen=True)
class Work:
    """Images that a pass has still to visit."""

    sampling: Pass
    split: Split


class Sampler:
    """The actor: keeps its networks between blocks."""

    def __init__(
        self,
        run_dir: str,
        *,
        passes: list[Pass],
        checksums: dict[str, str],
        classes: int,
        roster: Any,
        deadlines: Any,
        resources: Resources,
    ) -> None:
        import ray

        self._sealed, self._deadlines = sealed(ray.get_runtime_context().current_actor), deadlines
        if not ray.get(roster.join.remote(self._sealed)):
            ray.actor.exit_actor()
        set_deterministic(threads=resources.threads_per_worker)
        keep_freed_memory()
        self._store, self._passes, self._classes = Store(run_dir), passes, classes
        self._checksums, self._resources = checksums, resources
        self._networks: dict[tuple[str, Precision], nn.Module] = {}
        self._limits = [BatchLimit() for _ in passes]

    @cached_property
    def _device(self) -> torch.device:
        # Not where the actor starts: Ray would lose the reason.
        return worker_device(self._resources.gpus, allow_cpu=self._resources.allow_cpu)

    def _network(self, model: str, precision: Precision) -> nn.Module:
        if (model, precision) not in self._networks:
            self._store.check_same_model(model, self._checksums[model])
            self._networks[model, precision] = load_network(
                self._store, model, classes=self._classes, device=self._device, precision=precision
            )
        return self._networks[model, precision]

    def __call__(self, block: dict[str, np.ndarray[Any, Any]]) -> pa.Table:
        """Return the rows that the passes make of the images of a block, with the position of their work."""
        self._store.check_shared()
        tables = []
        for which, example, label, pixels in zip(
            block["work"].tolist(), block["example"].tolist(), block["label"].tolist(), block["image"], strict=True
        ):
            sampling = self._passes[which]
            # Noise levels come one after the other: those of one alone need to fit into memory.
            self._networks = {key: one for key, one in self._networks.items() if key[0] in sampling.members}
            unread = any((model, sampling.precision) not in self._networks for model in sampling.members)
            held = held_image(sampling, example, worker=self._sealed, device=self._device, reads_data=unread)
            self._deadlines.begin.remote((which, example), held, 0)
            networks = [self._network(model, sampling.precision) for model in sampling.members]
            # The block is read-only memory of Ray's; torch wants its own.
            image = torch.from_numpy(np.array(pixels, dtype=np.float32)).to(self._device)
            try:
                with memory_for(f"image {example}", lower="certify.batch_size"):
                    rows = sampling.run(networks, image, label, example, limit=self._limits[which])
            except ModelError as error:
                if error.member is None:
                    raise
                model = sampling.members[error.member]
                raise BrokenModelError(f"{model}: {error} (image {example}, sigma {sampling.sigma:g})") from error
            self._deadlines.finish.remote((which, example), sampling.drawn(rows))
            tables.append(rows.append_column("work", pa.array([which] * rows.num_rows, pa.int64())))
        return pa.concat_tables(tables)


def held_image(sampling: Pass, example: int, *, worker: bytes, device: torch.device, reads_data: bool = False) -> Held:
    """Return how an image is held by an actor on this node; its samples cost what those of other images do."""
    some, more = ", ".join(sampling.members[:_NAMED]), len(sampling.members) - _NAMED
    return Held(
        name=f"image {example} at sigma {sampling.sigma:g} of {some}{f' and {more} others' if more > 0 else ''}",
        node=platform.node(),
        worker=worker,
        kind=f"{device.type} {sampling.members!r}",
        reads_data=reads_data,
        costs=(float(sampling.samples),),
    )


def images_unit(levels: int) -> str:
    """Return what passes over the same images at so many noise levels count."""
    return "images x sigmas" if levels > 1 else "images"


def visited(rows: pa.Table) -> set[tuple[int, int]]:
    """Return (work, example) of the images that rows are of."""
    return set(zip(rows["work"].to_pylist(), rows["example"].to_pylist(), strict=True))


def visit(
    store: Store, works: Sequence[Work], *, classes: int, cluster: Cluster, on_block: Callable[[pa.Table], None]
) -> None:
    """Run passes over images on a pool of actors; `on_block` gets the rows of finished images, in any order.

    Rows are those of the passes, all rows of an image together, with the position of their `work`.

    Nodes that join are used at once. When an actor or its node dies, a new pool goes on with the images that no block
    has brought yet.

    Raises:
        ClusterError: The resources are not there, or actors kept dying.
        BrokenModelError: A model returned no class scores.
        RspipeError: What else an actor ran into.
    """
    waiting = {
        (which, int(example)): {"work": which, "example": int(example), "label": int(label), "image": image.numpy()}
        for which, work in enumerate(works)
        for image, label, example in zip(work.split.images, work.split.labels, work.split.index, strict=True)
    }

    def arrived(rows: pa.Table) -> None:
        for image in visited(rows):
            del waiting[image]
        on_block(rows)

    fruitless, deadlines = 0, make_deadlines()
    while waiting:
        before = len(waiting)
        try:
            rows = list(waiting.values())
            _run_pool(store, works, rows, classes=classes, deadlines=deadlines, cluster=cluster, on_block=arrived)
        except WorkersLostError as error:
            fruitless = 0 if len(waiting) < before else fruitless + 1
            if fruitless == _FRUITLESS_POOLS:
                raise
            _log.warning("warning: %s; going on with the %d images left", passing(error), len(waiting))


def set_failed_aside(store: Store, error: BrokenModelError) -> TrainedModel:
    """Note in the store which model failed, warn of it, and return its record."""
    record = store.mark_failed(error.model, str(error).removeprefix(f"{error.model}: "))
    _log.warning("warning: %s is left out, with all ensembles that it is a member of: %s", record.id, record.message)
    return record


def _run_pool(
    store: Store,
    works: Sequence[Work],
    rows: list[dict[str, Any]],
    *,
    classes: int,
    deadlines: Any,
    cluster: Cluster,
    on_block: Callable[[pa.Table], None],
) -> None:
    """Run one pool of actors over rows until they are done or an actor is lost; it grows with the cluster."""
    import ray
    from ray.data import ActorPoolStrategy

    resources = cluster.resources
    size = rows[0]["image"].size * max(work.sampling.forward_samples for work in works)
    images = 1 if size > _NUMBERS_PER_BLOCK else _IMAGES_PER_BLOCK
    blocks = -(-len(rows) // images)
    models = dict.fromkeys(model for work in works for model in work.sampling.members)
    at_once = cluster.now().workers(blocks)
    cluster.free(1, at_best=at_once, stage=_STAGE)
    ray.get(deadlines.end_all.remote())
    most = max(at_once, min(blocks, resources.workers or blocks))
    try:
        with pool() as roster, warnings.catch_warnings():
            # `max_restarts` loses its place in 2.64, beyond our pin, and has no other yet.
            warnings.simplefilter("ignore", DeprecationWarning)
            data = ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
                Sampler,
                fn_constructor_kwargs={
                    "run_dir": str(store.run_dir),
                    "passes": [work.sampling for work in works],
                    "checksums": {model: store.existing_model(model).checksum for model in models},
                    "classes": classes,
                    "roster": roster,
                    "deadlines": deadlines,
                    "resources": resources,
                },
                batch_size=None if resources.gpus == 0 else images,
                compute=ActorPoolStrategy(min_size=at_once, max_size=most),
                num_cpus=resources.cpus_per_worker,
                num_gpus=resources.gpus or None,
                # Ray would wait for the resources of a node that is gone, with the rows it had given to its actor.
                max_restarts=0,
            )
            blocks = data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
            for block in _watched(blocks, roster=roster, deadlines=deadlines, cluster=cluster):
                on_block(block)
    except RspipeError:
        raise
    except ray.exceptions.RayError as error:
        raise root_cause(error) from error
    except (RuntimeError, ValueError, TypeError) as error:
        raise ClusterError(f"the pass over the images failed: {str(error).strip().splitlines()[-1]}") from error


def _watched(blocks: Iterable[pa.Table], *, roster: Any, deadlines: Any, cluster: Cluster) -> Iterator[pa.Table]:
    """Yield the blocks that a pool brings, and look meanwhile for what hangs, and whether others leave it no room.

    Raises:
        ClusterError: Others held the resources of all workers for too long.
    """
    import ray

    arrived: queue.SimpleQueue[pa.Table | BaseException | None] = queue.SimpleQueue()

    def read() -> None:
        try:
            for block in blocks:
                arrived.put(block)
            arrived.put(None)
        except BaseException as error:  # noqa: BLE001 raised again below, in the caller's thread
            arrived.put(error)

    # A daemon: it ends when the actors do, which nobody who interrupts waits for.
    threading.Thread(target=read, daemon=True).start()
    patience, looked = Patience(cluster, stage=_STAGE), time.monotonic()
    warns_at = looked + _START_SECONDS
    while True:
        try:
            block = arrived.get(timeout=_LOOK_SECONDS)
        except queue.Empty:
            pass
        else:
            if block is None:
                return
            if isinstance(block, BaseException):
                raise block
            yield block
        if time.monotonic() - looked > _LOOK_SECONDS:
            replace_hung(deadlines)
            started, looked = ray.get(roster.size.remote()), time.monotonic()
            patience.watch(at_work=started > 0)
            if not started and looked > warns_at:
                warns_at = math.inf
                _log.warning("warning: no worker has started for %.0f min; Ray's own logs say why", _START_SECONDS / 60)
