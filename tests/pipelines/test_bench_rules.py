"""Facts about the benchmark of the sampling rules: what it reads from logs, and what it prints."""

from pathlib import Path

import numpy as np
import pytest

from pipelines.bench import bench_rules as bench
from rspipe.arrays import FloatArray
from rspipe.smoothing.certificates import certified_radius, clopper_pearson_lower, radius_cap
from rspipe.smoothing.metrics import average_certified_radius

HEADER = "idx\tlabel\tpredict\tradius\tcorrect\ttime"


def write_log(path: Path, rows: list[tuple[int, float, int]]) -> Path:
    """Write rows of (predict, radius, correct)."""
    lines = [
        f"{index}\t0\t{predict}\t{radius}\t{correct}\t1.0" for index, (predict, radius, correct) in enumerate(rows)
    ]
    path.write_text("\n".join([HEADER, *lines]) + "\n")
    return path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Return a log of 100 images each: right near .95, right at the cap, wrong, and abstained."""
    kinds = [(0, 0.41, 1), (0, 0.953, 1), (3, 0.02, 0), (-1, 0.0, 0)]
    return write_log(tmp_path / "some-sigma0.25.tsv", kinds * 100)


@pytest.mark.parametrize("sigma", [0.25, 1.0])
def test_a_radius_is_inverted_to_the_count_that_it_came_from(sigma: float) -> None:
    counts = np.array([50_600, 60_001, 75_123, 99_990, 99_999, 100_000])
    radius = certified_radius(clopper_pearson_lower(counts, bench.N, alpha=bench.ALPHA), sigma=sigma)
    assert (bench.invert(radius, sigma=sigma) * bench.N).round(6).tolist() == counts.tolist()


def test_radii_beyond_what_n_samples_can_prove_count_as_all_successes() -> None:
    cap = radius_cap(sigma=0.25, n=bench.N, alpha=bench.ALPHA)
    assert bench.invert(np.array([cap + 1e-4, 0.978, 10.0]), sigma=0.25).tolist() == [1.0, 1.0, 1.0]


def test_a_log_is_read_as_probabilities_of_the_selected_class(log: Path) -> None:
    images = bench.read_images(log)
    assert isinstance(images, bench.Images)
    assert images.sigma == 0.25
    p, right = images.p.reshape(100, 4), images.right.reshape(100, 4)
    assert right.sum(0).tolist() == [100, 100, 0, 50]
    bound = clopper_pearson_lower(np.rint(p[0, :3] * bench.N).astype(int), bench.N, alpha=bench.ALPHA)
    # Half a step of the printed radius.
    np.testing.assert_allclose(certified_radius(bound, sigma=0.25), [0.41, 0.953, 0.02], atol=5e-4)
    np.testing.assert_allclose(p[:, 3], 0.40 + 0.105 * (np.arange(100) + 0.5) / 100)


def test_logs_that_say_nothing_about_rules_are_left_out_with_a_reason(tmp_path: Path) -> None:
    rows = [(0, 0.1, 1), (1, 0.2, 0)] * 200
    assert "no sigma" in str(bench.read_images(write_log(tmp_path / "nameless.tsv", rows)))
    assert "only 100 images" in str(bench.read_images(write_log(tmp_path / "short-sigma0.25.tsv", rows[:100])))
    one_class = [(9, 3.8, 0), (-1, 0.0, 0)] * 200
    assert "one class" in str(bench.read_images(write_log(tmp_path / "collapsed-sigma1.00.tsv", one_class)))


def test_label_stop_costs_the_selection_of_wrong_images_and_everything_of_right_ones(log: Path) -> None:
    images = bench.read_images(log)
    assert isinstance(images, bench.Images)
    samples, unstopped, change = next(bench.savings(images))
    assert samples == pytest.approx(100 + 100_000 * 250 / 400)
    assert unstopped == 100_100
    assert change == "ACR +0.00 %"


@pytest.fixture(scope="module")
def risks() -> FloatArray:
    return bench.false_claims()


def test_no_rule_risks_more_than_alpha(risks: FloatArray) -> None:
    assert risks.shape == (len(bench.RULES), len(bench.PROBABILITIES))
    assert risks.max() <= bench.ALPHA


def test_the_benchmark_prints_every_rule_of_every_log(
    log: Path, risks: FloatArray, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "false_claims", lambda: risks)
    write_log(log.with_name("short-sigma0.25.tsv"), [(0, 0.1, 1)])
    bench.bench_rules(log.parent)
    printed = capsys.readouterr().out
    assert "some-sigma0.25, 400 images" in printed
    assert "short-sigma0.25: left out, it has only 1 images" in printed
    after = printed.split("some-sigma0.25, 400 images")[1]
    assert [line[:12].strip() for line in after.splitlines()[2:]] == list(bench.RULES)


def published(shared_data: Path, name: str) -> Path:
    log = shared_data / "certify-logs" / f"{name}.tsv"
    if not log.is_file():
        pytest.skip(f"needs {log}")
    return log


def test_the_counts_of_a_published_log_give_back_its_acr(shared_data: Path) -> None:
    images = bench.read_images(published(shared_data, "smoothadv-repo-cohen-cifar10-r110-sigma0.25-10000"))
    assert isinstance(images, bench.Images)
    bound = clopper_pearson_lower(np.rint(images.p * bench.N).astype(int), bench.N, alpha=bench.ALPHA)
    acr = average_certified_radius(certified_radius(bound, sigma=0.25), images.right & (bound >= 0.5))
    # Its README gives four digits; radii are printed with three. The right abstentions near p = 1/2 add 2e-5 at most.
    assert acr == pytest.approx(0.4240, abs=5e-4 + 5e-5 + 2e-5)


@pytest.mark.parametrize("name", sorted(bench.NOTES))
def test_rules_save_what_the_notes_say(shared_data: Path, name: str) -> None:
    images = bench.read_images(published(shared_data, name))
    assert isinstance(images, bench.Images)
    notes = [int(note.split()[0].replace(",", "")) for note in bench.NOTES[name].split("|")[:-1]]
    # Another size grid moves a plan by less than one of its steps, which are of 18 %.
    # Notes first: the rule that has none would be computed in vain.
    for note, (samples, _, _) in zip(notes, bench.savings(images), strict=False):
        assert note / 1.18 < samples < note * 1.18
