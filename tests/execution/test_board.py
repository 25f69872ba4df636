"""The board of work."""

from rspipe.errors import DataError
from rspipe.execution.board import Board, Desk


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
    assert board.read() == (1.75, 0.0, "b", None)
    for piece in (1, 2):
        board.update(piece, 1.0, "c")
    assert board.read() == (3.0, 0.0, "", None)


def test_what_a_checkpoint_held_is_no_work_of_this_run_unless_the_board_has_seen_it() -> None:
    board = Board(1)
    for fraction in (0.25, 0.5):
        board.resume(0, fraction)
    board.update(0, 0.75)
    assert board.read() == (0.75, 0.5, "", None)
    # Another worker goes on with it, and tells all again.
    for fraction in (0.25, 0.5, 0.75):
        board.resume(0, fraction)
    assert board.read() == (0.75, 0.5, "", None)


def test_a_board_keeps_the_first_failure_and_hands_out_nothing_more() -> None:
    board = Board(3)
    board.take(0)
    first = DataError("first")
    board.fail(first)
    board.fail(DataError("second"))
    assert board.take(0) is None
    assert board.left() == (0, 0)
    assert board.read() == (0.0, 0.0, "", first)


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


def test_what_a_group_has_reserved_is_given_back_once_and_by_nobody_else() -> None:
    board = Board(1)
    board.reserve(0, b"a CPU")
    assert board.release(1) == []
    assert board.release(0) == [b"a CPU"]
    assert board.release(0) == []


def test_a_desk_keeps_boards_apart() -> None:
    desk = Desk()
    first, second = desk.put(Board, 2), desk.put(Board, 1)
    assert desk.ask(first, "take", 0) == 0
    assert desk.ask(second, "take", 0) == 0
    assert [desk.ask(place, "left") for place in (first, second)] == [(1, 2), (0, 1)]
