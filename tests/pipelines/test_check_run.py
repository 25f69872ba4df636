"""Facts about the program that proves a run directory's radii again: it takes what is right, and no mutation."""

import json
import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines import check_run
from rspipe.smoothing.counts import CountTable
from rspipe.smoothing.rules import looks, settled
from rspipe.smoothing.sampling import DecideRule, FixedRule, PlannedRule, RadiusGridRule, Rule
from rspipe.smoothing.spec import CertifySpec
from rspipe.storage.counts import count_rows
from rspipe.storage.store import Store
from tests.damages import small_run

N0, N, ALPHA, SIGMA, IMAGES = 100, 2000, 0.001, 0.5, 50
GRID = (0.1, 0.25, 0.5, 0.75)
RULES: dict[str, Rule] = {
    "fixed": FixedRule(label_stop=True),
    "planned": PlannedRule(pilot=200),
    "radius_grid": RadiusGridRule(grid=GRID),
    "decide": DecideRule(radii=GRID),
}
P = np.linspace(0.4, 0.9999, IMAGES)


def marks_of(rule: str) -> Any:
    if rule == "decide":
        return DecideRule(radii=GRID).looks(sigma=SIGMA, n=N, alpha=ALPHA)[0].t
    return np.array([look.n for look in looks(N, ALPHA)])


def drawn(rule: str, n_a: Any) -> Any:
    """Return [image] how many estimation samples a rule takes of images with counts n_a [image, look]; few miss."""
    schedule = looks(N, ALPHA)
    sizes = marks_of(rule)
    if rule == "decide":
        # Until the largest radius is proven, or to the end: what counts prove does not depend on why they ended.
        accept = DecideRule(radii=GRID).looks(sigma=SIGMA, n=N, alpha=ALPHA)[-1].accept
        sizes = sizes[np.where((n_a >= accept).any(1), (n_a >= accept).argmax(1), len(sizes) - 1)]
    elif rule == "radius_grid":
        done = [settled(n_a[:, : at + 1], schedule, sigma=SIGMA, grid=GRID, futility=1e-3) for at in range(len(sizes))]
        sizes = sizes[np.argmax(done, axis=0)]
    elif rule == "planned":
        sizes = np.array([300, 777, 1000, N])[np.arange(IMAGES) % 4]
    else:
        sizes = np.full(IMAGES, N)
    return np.where(np.arange(IMAGES) < 3, 0, sizes)


def write(run: Path, rule: str) -> None:
    """Write a run directory of a classifier at IMAGES images, with the counts that a rule would have made."""
    rng = np.random.default_rng(3)
    classes = np.where(rng.random((IMAGES, N)) < P[:, None], 1, np.where(rng.random((IMAGES, N)) < 0.7, 0, 2))
    marks = marks_of(rule)
    first = np.stack([[np.bincount(row[:m], minlength=3) for m in marks] for row in classes])
    size = drawn(rule, first[..., 1])
    estimation = np.stack([np.bincount(row[:k], minlength=3) for row, k in zip(classes, size, strict=True)])
    first[size[:, None] < marks] = -1
    missed, nothing = size == 0, np.zeros((IMAGES, 3))
    spec = CertifySpec(rule=RULES[rule], n0=N0, n=N, alpha=ALPHA)
    table = CountTable(
        sigma=SIGMA,
        rule=RULES[rule],
        n0=N0,
        n=N,
        alpha=ALPHA,
        seed=0,
        classifier=np.full(IMAGES, "a"),
        kind=np.full(IMAGES, "model"),
        example=np.arange(IMAGES),
        label=np.where(missed, 2, 1),
        selection=np.tile([25, 60, 15], (IMAGES, 1)),
        pilot=np.tile([25, 60, 15], (IMAGES, 1)) * ((rule == "planned") & ~missed[:, None]),
        estimation=estimation,
        stop=np.where(missed, "label", np.where(size < N, "planned", "")),
        marks=marks,
        prefix=first,
        probability_sum=nothing,
        probability_square=nothing,
        batch_size=np.full(IMAGES, 100),
        seconds=np.ones(IMAGES),
        noise=np.full(IMAGES, "grid 1/255"),
    )
    Store(run).save_counts(count_rows(table, keys=["k"] * IMAGES, spec=spec, device="cpu"))
    content = {"id": "s", "study": {"certify": {"n0": N0, "n": N, "alpha": ALPHA, "rule": asdict(RULES[rule])}}}
    (run / "study.json").write_text(json.dumps(content))


@pytest.fixture(params=RULES)
def rule(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def run(rule: str, tmp_path: Path) -> Path:
    """Return a run directory under the rule."""
    write(tmp_path, rule)
    return tmp_path


def holds(rows: Any, study: Any) -> Any:
    """Return [row] whether all that is checked holds."""
    rows.drawn, rows.selected = rows.estimation.sum(1), rows.selection.argmax(1)
    rows.noted = rows.prefix[np.arange(len(rows.n)), :, rows.selected]
    checks = (*check_run.well_formed(rows, study), *check_run.radii(rows, study))
    return np.all([np.broadcast_to(one, len(rows.n)) for _, one in checks], axis=0)


def raised(rows: Any) -> Any:
    """Raise radii by a millionth, on a grid to the next radius."""
    if set(rows.radius) <= {0.0, *GRID}:
        rows.radius = np.array([*GRID, 1.0])[np.searchsorted(GRID, rows.radius, side="right")]
        return rows.prediction >= 0
    rows.radius = rows.radius * (1 + 1e-6)
    return rows.radius > 0


def lost(rows: Any) -> Any:
    """Take 1 % of the selected class's samples for another class, everywhere where they are counted."""
    moved = -(-rows.estimation[:, 1] // 100)
    rows.estimation[:, 1] -= moved
    rows.estimation[:, 0] += moved
    rows.prefix[..., 1] -= np.minimum(moved[:, None], rows.prefix[..., 1])
    rows.prefix[..., 0] = rows.marks - rows.prefix[..., 1] - rows.prefix[..., 2]
    rows.n_a = rows.estimation[:, 1]
    return moved > 0


def changed(name: str, change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a mutation of one column that changes it in every row where it is not 0."""

    def mutate(rows: Any) -> Any:
        before = getattr(rows, name)
        after = change(before.copy())
        setattr(rows, name, after)
        return (before != after).reshape(len(before), -1).any(1)

    return mutate


def one_more(counts: Any) -> Any:
    counts[..., 0] += 1
    return counts


MUTATIONS: dict[str, Callable[[Any], Any]] = {
    "radius": raised,
    "counts lost": lost,
    "a count more": changed("estimation", one_more),
    "a selection more": changed("selection", one_more),
    "a noted count more": changed("prefix", one_more),
    "n_a": changed("n_a", lambda n_a: n_a + 1),
    "class": changed("prediction", lambda prediction: np.where(prediction >= 0, 2, 0)),
    "p_a_lower": changed("p_a_lower", lambda bound: bound * (1 + 1e-6)),
    "n0": changed("n0", lambda n0: n0 + 1),
    "n": changed("n", lambda n: n - 1),
    "alpha": changed("alpha", lambda alpha: 0.99 * alpha),
    "samples": changed("samples", lambda samples: samples + 1),
    "negative radius": changed("radius", lambda radius: -radius),
    "no number": changed("radius", lambda radius: np.full(len(radius), np.nan)),
}


def test_what_certification_writes_is_proven(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_run.main([str(run)]) == 0
    claims = sum(row["prediction"] >= 0 for row in pq.read_table(next(run.glob("certificates/*"))).to_pylist())
    assert f"proven are {claims} radii of {IMAGES} certificates" in capsys.readouterr().out
    assert claims > IMAGES / 2


def test_every_mutation_of_every_certificate_is_refuted(run: Path, rule: str) -> None:
    rows, study = check_run.read(run), json.loads((run / "study.json").read_text())["study"]["certify"]
    assert holds(rows, study).all()
    mutated = 0
    for name, mutate in MUTATIONS.items():
        if name == "counts lost" and rule in ("radius_grid", "decide"):
            # A radius that is one of few lies below what was proven, and may stand.
            continue
        if name == "p_a_lower" and rule == "decide":
            # And so may its bound.
            continue
        other = deepcopy(rows)
        where = mutate(other)
        assert not holds(other, study)[where].any(), name
        mutated += int(where.sum())
    assert mutated > 1000 / len(RULES)


def test_by_a_rule_that_it_does_not_know_all_samples_are_asked_for(run: Path) -> None:
    rows, study = check_run.read(run), json.loads((run / "study.json").read_text())["study"]["certify"]
    study["rule"]["name"] = "another"
    rows.rule_parameters = np.full(len(rows.n), json.dumps(study["rule"]))
    fewer = (rows.drawn < rows.n) & (rows.stop != "label")
    assert not holds(rows, study)[fewer].any()


def test_a_smaller_noise_level_proves_smaller_radii_alone(tmp_path: Path) -> None:
    write(tmp_path, "fixed")
    rows, study = check_run.read(tmp_path), json.loads((tmp_path / "study.json").read_text())["study"]["certify"]
    rows.sigma = 0.999 * rows.sigma
    assert np.array_equal(holds(rows, study), rows.radius == 0)


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("radius", 9.0, "it is not so that the radius is proven"),
        ("label", 7, "it is not so that an image has one label"),
        ("n_a", 3, "it is not so that n_a counts the selected class"),
    ],
)
def test_the_first_refuted_row_is_shown_and_the_status_is_1(
    column: str, value: Any, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, "fixed")
    table = pq.read_table(next(tmp_path.glob("certificates/*"))).slice(20, 1)
    pq.write_table(
        table.set_column(table.schema.get_field_index(column), table.schema.field(column), [[value]]),
        tmp_path / "certificates" / "part-second.parquet",
    )
    assert check_run.main([str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert says in shown
    assert "'example': 20" in shown


def unreadable(run: Path, name: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the line with which a check ends that cannot read a file, of which it says the name."""
    with pytest.raises(SystemExit) as ended:
        check_run.main([str(run)])
    assert ended.value.code == 3
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{run / name}: it cannot be read, and the run is not proven: ")
    return line


def test_without_certificates_there_is_nothing_to_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unreadable(tmp_path, "certificates/part-*.parquet", capsys)


def test_a_file_that_is_missing_or_cut_off_is_named_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, "fixed")
    (tmp_path / "cascades").mkdir()
    part = next(tmp_path.glob("certificates/*.parquet")).relative_to(tmp_path)
    (tmp_path / "cascades" / "cascade.json").write_text("{}")
    for name in (str(part), "study.json", "cascades/cascade.json"):
        whole = (tmp_path / name).read_bytes()
        for damaged in (whole[: len(whole) // 2], b"\xff" + whole[1:-1] + b"\xff"):
            (tmp_path / name).write_bytes(damaged)
            unreadable(tmp_path, name, capsys)
        (tmp_path / name).write_bytes(whole)
    (tmp_path / "study.json").unlink()
    unreadable(tmp_path, "study.json", capsys)


def test_a_cascade_whose_counts_are_missing_is_not_proven(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = small_run(tmp_path)
    assert check_run.main([str(run)]) == 0
    next(run.glob("certificates/part-*.parquet")).unlink()
    capsys.readouterr()
    assert check_run.main([str(run)]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"{run}: it is not so that every level of \S+\.json has counts of every image", line)


@pytest.mark.parametrize(
    "words",
    [(), ("--help",), ("run", "--recount"), ("--recount", "5", "run"), ("run", "--recount", "x"), ("s3://bucket/run",)],
    ids=" ".join,
)
def test_words_that_it_does_not_understand_say_how_it_is_used(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert check_run.main([*words]) == 2
    assert capsys.readouterr().out.startswith("Prove every certified radius of folders of runs again")


def test_it_imports_nothing_of_rspipe_and_is_short(repository: Path) -> None:
    text = (repository / "pipelines" / "check_run.py").read_text()
    assert "import rspipe" not in text
    assert "from rspipe" not in text
    assert len(text.splitlines()) <= 150


def test_the_program_knows_every_rule() -> None:
    assert set(RULES) == {kind().name for kind in Rule.__args__}
