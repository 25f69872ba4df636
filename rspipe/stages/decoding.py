"""Images that are files, decoded on the cluster by Ray Data ahead of the training steps that need them."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rspipe.data.files import FileSplit, ImageFiles, Step, training_pixels
from rspipe.execution.failures import root_cause

_STEPS_AHEAD = 2


def _decode(row: dict[str, Any], *, shape: tuple[int, int, int], resize: int | None, at_random: bool) -> dict[str, Any]:
    """Decode the images of one step. Runs in a Ray task."""
    # A worker has one thread; more would take the time of the training next to it.
    torch.set_num_threads(1)
    files = ImageFiles(tuple(row["paths"]), shape, resize)
    return {
        "step": row["step"],
        "pixels": training_pixels(files, at_random=at_random, seed=int(row["seed"])).numpy(),
    }


def streamed(split: FileSplit, steps: Sequence[Step], *, decoders: int) -> Iterator[Tensor]:
    """Yield the pixels of every step of an epoch (a `PixelSource`), the same as `data.files.decoded_here` does.

    Tasks on any node decode, so all nodes have to see the files. They reserve no CPU, since workers that train may
    have reserved all there are: `decoders` bounds how many run at a time.

    Raises:
        DataError: A file is unreadable.
        ClusterError: The tasks failed.
    """
    import ray.data

    rows = [
        {"step": number, "paths": list(split.some(positions).paths), "seed": seed}
        for number, (positions, seed) in enumerate(steps)
    ]
    data = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        _decode,
        fn_kwargs={"shape": split.files.shape, "resize": split.files.resize, "at_random": split.at_random},
        num_cpus=0,
        concurrency=decoders,
    )
    data.context.execution_options.preserve_order = True
    data.context.enable_progress_bars = False
    try:
        for number, block in enumerate(data.iter_batches(batch_size=1, prefetch_batches=_STEPS_AHEAD)):
            assert int(block["step"][0]) == number
            # The object store's memory is read-only.
            yield torch.from_numpy(np.array(block["pixels"][0]))
    except ray.exceptions.RayError as error:
        raise root_cause(error) from error
