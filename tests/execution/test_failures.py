"""The cause of a failure on the cluster."""

import pickle

import pytest
from ray.exceptions import OutOfMemoryError

from rspipe.errors import ClusterError, DataError, ModelError, WorkersLostError
from rspipe.execution.failures import root_cause


def test_the_outermost_of_several_errors_of_ours_is_the_one_found() -> None:
    text = (
        "rspipe.errors.ModelError: NaN\n\nThe above exception was the cause\n\nrspipe.errors.ModelError: NaN (image 3)"
    )
    assert str(root_cause(RuntimeError(text))) == "NaN (image 3)"


def test_of_a_chain_in_text_the_first_error_is_told() -> None:
    cause = root_cause(
        RuntimeError(
            "ray::f() (pid=1)\n  File 'x.py', line 1, in f\nKeyError: 'samples'\n\n"
            "The above exception was the direct cause of the following exception:\n\nray::f() (pid=1)\n"
            "ray.exceptions.UserCodeException: UDF failed.\nTo change retry attempts, configure"
        )
    )
    assert str(cause) == "work on the cluster failed: KeyError: 'samples'; the same command goes on from here"


def test_an_error_of_ours_is_found_among_causes() -> None:
    try:
        try:
            raise ModelError("network 'a' returned NaN")
        except ModelError as error:
            raise RuntimeError("a task failed") from error
    except RuntimeError as error:
        cause = root_cause(error)
    assert type(cause) is ModelError
    assert str(cause) == "network 'a' returned NaN"


def test_an_error_of_ours_is_found_in_the_text_of_a_traceback() -> None:
    text = 'ray::f() (pid=1)\n  File "x.py", line 1, in f\nrspipe.errors.DataError: data.folder /x is not there\n\nmore'
    cause = root_cause(RuntimeError(text))
    assert type(cause) is DataError
    assert str(cause) == "data.folder /x is not there"


def test_an_error_of_ours_is_found_among_the_failures_of_workers() -> None:
    error = RuntimeError("training failed")
    error.worker_failures = {0: pickle.loads(pickle.dumps(ModelError("bad")))}  # type: ignore[attr-defined]  # noqa: S301
    assert str(root_cause(error)) == "bad"


@pytest.mark.parametrize("text", ["rspipe.errors.RuntimeError: no", "rspipe.errors.re: no", "boom\nlast line\n\n"])
def test_any_other_error_is_one_line_of_the_cluster(text: str) -> None:
    cause = root_cause(ValueError(text))
    assert type(cause) is ClusterError
    last = text.strip().splitlines()[-1]
    assert str(cause) == f"work on the cluster failed: {last}; the same command goes on from here"


def test_workers_that_ray_ended_for_want_of_memory_are_told_with_node_and_remedy() -> None:
    said = (
        "1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 10.0.0.3, ID: 4c) was "
        "22.72GB used / 23.54GB limit (0.965671)\nOOM kill reason: Memory usage exceeded threshold.\n"
    )
    try:
        raise RuntimeError("the pass failed") from OutOfMemoryError(said)
    except RuntimeError as error:
        cause = root_cause(error)
    assert type(cause) is WorkersLostError
    assert str(cause) == (
        "workers were lost: Ray ended some on node 10.0.0.3, which ran low on memory (22.72GB used / 23.54GB limit); "
        "run fewer side by side, --resources.workers, or lower batch sizes; the same command goes on from here"
    )
