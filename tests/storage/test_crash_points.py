"""A run directory survives a crash at any step of its writing; `python -m tests.crash_points` tries all of them."""

from tests.crash_points import all_crashes


def test_a_study_that_died_at_a_step_of_writing_ends_with_the_same_files() -> None:
    # Prime to the seven or so steps of a file, so that all kinds of them are met.
    assert all_crashes(every=47, errors=("",)) > 250


def test_a_disk_that_refuses_is_a_line_and_the_next_run_goes_on() -> None:
    assert all_crashes(every=151, errors=("ENOSPC", "EACCES")) > 250
