"""Memory that runs out is one line with node, cause and remedy."""

import platform
import re

import pytest
import torch

from rspipe.errors import ClusterError
from rspipe.stages.memory import memory_for


def test_memory_that_the_allocator_has_not_is_told_with_node_and_remedy() -> None:
    with (
        pytest.raises(ClusterError) as told,
        memory_for("gaussian-s0.25-seed0", lower="training.batch_size"),
    ):
        torch.empty(2**50)
    said = rf"out of memory on node {platform.node()} for gaussian-s0\.25-seed0 \(.*can't allocate memory.*\)"
    assert re.fullmatch(rf"{said}; lower training\.batch_size, or run fewer workers side by side: .*", str(told.value))


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB.\nmore")])
def test_every_kind_of_it_is_one_line(error: Exception) -> None:
    with pytest.raises(ClusterError, match=r"^out of memory on node .* for a \((MemoryError|CUDA .*GiB\.)\); lower b"):
        raise_within(error)


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match=r"^no memory is meant here$"):
        raise_within(RuntimeError("no memory is meant here"))


def raise_within(error: Exception) -> None:
    with memory_for("a", lower="b"):
        raise error
