"""Facts about the benchmark of searches: what it compares at which cost."""

from pipelines.bench import bench_search as bench
from rspipe.records import Trial
from rspipe.search.spec import EarlyStopping
from rspipe.search.trials import trial_parameters
from rspipe.study.loading import load_study


def trial(index: int, acr: float, *, passes: int = 100, stopped: bool = False) -> Trial:
    return Trial(
        search="s",
        index=index,
        parameters={},
        objective=acr,
        noisy_accuracy=0.5,
        status="stopped" if stopped else "finished",
        message="",
        seconds=1.0,
        passes=passes,
        error=None,
        accuracy=0.0,
        epochs=1,
        watched={},
    )


def test_the_best_within_a_budget_is_of_trials_that_had_finished_by_then() -> None:
    course = bench.Course(
        (trial(0, 0.2), trial(1, 0.9, stopped=True), trial(2, 0.5), trial(3, 0.3)), (100, 150, 250, 350)
    )
    assert [course.best(budget) for budget in (99, 100, 249, 250, 1000)] == [0.0, 0.2, 0.2, 0.5, 0.5]


def test_differences_are_paired_by_seed() -> None:
    courses = {
        name: [bench.Course((trial(0, acr + shift),), (10,)) for acr in (0.1, 0.4, 0.7)]
        for name, shift in (("a", 0.0), ("b", 0.05))
    }
    lines = bench.comparison(courses, budget=40)
    assert len(lines) == 2 + len(bench.SHARES)
    assert lines[-1].endswith("| +0.0500 ± 0.0000 |")


def test_both_searches_share_all_but_how_they_proceed() -> None:
    study = load_study(bench.DIGITS)
    searches = bench.competitors(study, seed=7, startup=3, stopping=EarlyStopping(reduction=4))
    random, learning = searches["random"], searches["TPE + ASHA"]
    own = {"algorithm": random.algorithm, "early_stopping": None}
    assert learning.model_copy(update=own) == random
    assert random.space == study.search_specs[0].space
    assert random.seed == 7
    few = random.model_copy(update={"trials": 4})
    assert len({tuple(parameters.items()) for parameters in trial_parameters(few)}) == 4
