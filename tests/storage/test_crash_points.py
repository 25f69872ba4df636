"""A run directory survives a crash at any step of its writing; `python -m tests.crash_points` tries all of them."""

from tests.crash_points import all_crashes


def test_a_study_that_died_at_a_step_of_writing_ends_with_the_same_files() -> None:
    # Prime to the six steps of a file, so that each of them is met.
    steps = all_crashes(every=47)
    assert steps > 200
