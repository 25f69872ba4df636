"""The board of work, and our own errors in those of Ray."""

import pickle

import pytest

from rspipe.errors import ClusterError, DataError, ModelError
from rspipe.execution.board import Board
from rspipe.execution.failures import root_cause


def test_a_board_hands_out_each_piece_once_and_again_what_a_lost_group_had_not_finished() -> None:
    board = Board(4)
    assert [board.take(0), board.take(0), board.take(1)] == [0, 1, 2]
    board.update(0, 1.0)
    assert board.left() == (1, 3)
    board.release(0)
    assert board.left() == (2, 3)
    assert [board.take(1), board.take(1), board.take(1)] == [1, 3, None]
    board.release(0)
    assert board.left() == (0, 3)


def test_a_board_adds_up_fractions_and_keeps_the_latest_detail() -> None:
    board = Board(3)
    board.update(0, 1.0, "a")
    board.update(2, 0.5, "b")
    board.update(2, 0.75)
    assert board.read() == (1.75, "b", None)


def test_a_board_keeps_the_first_failure_and_hands_out_nothing_more() -> None:
    board = Board(3)
    board.take(0)
    first = DataError("first")
    board.fail(first)
    board.fail(DataError("second"))
    assert board.take(0) is None
    assert board.left() == (0, 0)
    assert board.read() == (0.0, "", first)


def test_work_that_is_given_up_is_not_handed_out_again_and_those_at_it_are_known() -> None:
    board = Board(3)
    for rank in range(3):
        board.join(0, rank, f"worker {rank}")
        board.take(0)
    board.leave(0, 1)
    assert board.close() == ["worker 0", "worker 2"]
    board.release(0)
    assert board.take(1) is None
    assert board.left() == (0, 0)


def test_of_a_group_that_is_lost_no_worker_is_at_the_work_any_more() -> None:
    board = Board(1)
    board.join(0, 0, "lost")
    board.join(1, 0, "another group's")
    board.release(0)
    assert board.close() == ["another group's"]


def test_the_outermost_of_several_errors_of_ours_is_the_one_found() -> None:
    text = (
        "rspipe.errors.ModelError: NaN\n\nThe above exception was the cause\n\nrspipe.errors.ModelError: NaN (image 3)"
    )
    assert str(root_cause(RuntimeError(text))) == "NaN (image 3)"


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
