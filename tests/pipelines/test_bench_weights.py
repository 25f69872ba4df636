"""Facts about the benchmark of the weights: what its moments are like, and what it says of its aims."""

import numpy as np
import pytest

from pipelines.bench import bench_weights as bench


def test_the_moments_have_the_correlations_that_they_are_said_to_have() -> None:
    calibration = bench.realistic_calibration(8, images=60, competitors=2, seed=0)
    assert calibration.mean.shape == (60, 2, 8)
    covariance = calibration.covariance.mean((0, 1))
    deviation = np.sqrt(np.diag(covariance))
    correlation = covariance / np.outer(deviation, deviation)
    same = np.equal.outer(np.arange(8) % 2, np.arange(8) % 2)
    # 120 covariances of 200 draws each: a standard error of 1 / sqrt(24,000) for a pair.
    np.testing.assert_allclose(correlation[same & ~np.eye(8, dtype=bool)], 0.6, atol=0.04)
    np.testing.assert_allclose(correlation[~same], 0.5, atol=0.04)


def test_an_aim_is_met_by_elapsed_time_or_by_processor_time_alone_or_missed() -> None:
    def timing(elapsed: float, processor: float, gap: float = 1e-9) -> bench.Timing:
        return bench.Timing(elapsed, processor, gap, 3)

    sentences = bench.verdicts({100: timing(0.04, 0.04), 300: timing(1.5, 0.4)})
    assert sentences == [
        "50 ms at k = 100: met (40 ms, processor 40)",
        "1000 ms at k = 300: met in processor time alone (1500 ms, processor 400)",
        "relative gap 1e-06: met (1.0e-09 at worst)",
    ]
    sentences = bench.verdicts({100: timing(0.09, 0.08, gap=2e-6)})
    assert sentences == [
        "50 ms at k = 100: MISSED (90 ms, processor 80)",
        "relative gap 1e-06: MISSED (2.0e-06 at worst)",
    ]


def test_the_benchmark_prints_a_line_for_every_program(capsys: pytest.CaptureFixture[str]) -> None:
    bench.bench_weights(members=(2, 12), images=16, competitors=2, repeats=1)
    printed = capsys.readouterr().out
    programs = [line.split()[1] for line in printed.splitlines() if " ms " in line and "e-" in line and "esbrs" in line]
    assert programs == ["esbrs_ratio", "esbrs_ratio", "esbrs_paper", "esbrs_acr", "esbrs_ratio", "esbrs_ratio"]
    assert "relative gap 1e-06: met" in printed
