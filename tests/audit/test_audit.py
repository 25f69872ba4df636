"""Facts about audits: published logs are told for what they are, defects are found, and no file is a crash."""

import re
from dataclasses import replace

import numpy as np
import pytest

from rspipe.audit.audit import Audit, audit_lines, audit_log, cohen_log, rspipe_log
from rspipe.audit.ladder import Ladder
from rspipe.audit.log import certification_log, parse_log, read_log
from rspipe.audit.radii import Known
from rspipe.errors import LogError
from rspipe.records import Cascade
from rspipe.smoothing.cascades import CertifiedCascade, cascade
from rspipe.smoothing.certificates import ABSTAIN, certified_radius, clopper_pearson_lower
from rspipe.smoothing.derivation import CertifiedClassifier
from rspipe.smoothing.sampling import DecideRule, FixedRule, PlannedRule, RadiusGridRule, Rule
from tests.log_builder import HEADER, four_decimals, rounded_down, rows, text, three_digits
from tests.results_builder import certified

NAME = "gaussian/sigma_0.25"


def audited(cells, *, name=NAME, known=None, header=HEADER):
    return audit_log(parse_log(text(cells, header=header), name=name), known)


def problems(audit):
    return " | ".join(finding.text for finding in audit.findings if finding.severity == "problem")


def notes(audit):
    return " | ".join(finding.text for finding in audit.findings if finding.severity == "note")


def changed(place, value, *, at=5, cells=None):
    copy = [list(row) for row in cells or rows()]
    copy[at][place] = value
    return copy


def cascade_log(rule: Rule | None = None) -> list[list[str]]:
    """Return the lines of a log of a cascade over sigma = 1 and .25, some of it answered by no level.

    By another rule than CERTIFY's, levels have 1,000 to 10,000 samples.
    """
    rng, images = np.random.default_rng(0), 400
    sizes = np.full((2, images), 10_000) if rule is None else 1000 * rng.integers(1, 11, (2, images))
    margin = rng.uniform(0.2, 0.999, images)
    levels = []
    for size, sigma, p in zip(sizes, (1.0, 0.25), (margin, np.minimum(margin + 0.3, 0.999)), strict=True):
        chances = np.stack([p, 1 - p], -1)
        selection, estimation = (rng.multinomial(n, chances) for n in (100, size))
        # The second class is a third one where the first is unlikely, so that some images are handed on.
        counts = [np.concatenate([c, 0 * c[:, :1]], -1) for c in (selection, estimation)]
        for c in counts:
            c[:, 2], c[:, 1] = c[:, 1] // 2, c[:, 1] - c[:, 1] // 2
        levels.append((sigma, *counts))
    claims = cascade(levels, alpha=0.001)
    examples, p_a = np.arange(images), np.full(images, np.nan)
    classifier = CertifiedClassifier(
        id="cascade", kind="cascade", sigma=1.0, example=examples, label=np.zeros(images, np.int64),
        prediction=claims.prediction, radius=claims.radius, n_a=examples, p_a_lower=p_a,
        n=sizes[np.maximum(claims.level, 0), examples], samples=examples,
        stopped=examples < 0, rule="fixed", two_sided=float("nan"), seconds=1.0, noise=np.full(images, "float"),
    )  # fmt: skip
    record = Cascade(name="cascade", sigmas=(1.0, 0.25), classifiers=("a", "b"), seed=None)
    assert set(claims.level.tolist()) == {-1, 0, 1}
    log = certification_log(CertifiedCascade(record, classifier, claims.level), rule or FixedRule())
    return [line.split("\t") for line in log.splitlines()]


def audited_cascade(lines: list[list[str]]) -> Audit:
    return audit_log(parse_log("\n".join("\t".join(line) for line in lines).encode(), name="cascade"))


def test_a_log_of_images_with_different_numbers_of_samples_says_so_and_has_no_problem() -> None:
    one = certified("gaussian", "model", 0.25, skill=0.8, seed=0, images=400)
    n = np.random.default_rng(0).integers(1, 11, 400) * 1000
    bound = clopper_pearson_lower(np.minimum(one.n_a, n), n, alpha=0.001)
    radius = np.where(bound < 0.5, 0.0, certified_radius(bound, sigma=0.25))
    planned = replace(one, rule="planned", n=n, radius=radius, prediction=np.where(bound < 0.5, ABSTAIN, one.label))
    log = certification_log(planned, PlannedRule())
    audit = audit_log(parse_log(log.encode(), name=NAME))
    assert problems(audit) == ""
    assert "the number of samples varies by image" in notes(audit)
    assert audit.description.startswith(
        "log of certificates by planned pilot=1000 eps=0.01 futility=0.001; "
        "columns idx, label, predict, radius, correct, time, n, rule; "
    )
    # Without these columns there is nothing that explains them.
    as_certify = certification_log(planned, FixedRule())
    assert "on no rung" in problems(audit_log(parse_log(as_certify.encode(), name=NAME)))
    # The export has them, too.
    assert [line.split("\t")[6:] for line in rspipe_log(audit).splitlines()] == [
        line.split("\t")[6:] for line in log.splitlines()
    ]


@pytest.mark.parametrize("rule", [RadiusGridRule(grid=(0.1, 0.3, 0.6)), DecideRule(radii=(0.1, 0.3, 0.6))])
def test_radii_of_a_grid_or_decided_ones_are_no_radii_of_certify(rule: Rule) -> None:
    one = certified("gaussian", "model", 0.25, skill=0.8, seed=0, images=400)
    radius = np.array([0.0, 0.1, 0.3, 0.6])[np.searchsorted([0.1, 0.3, 0.6], one.radius, side="right")]
    audit = audit_log(parse_log(certification_log(replace(one, radius=radius), rule).encode(), name=NAME))
    assert audit.description.startswith(f"log of certificates by {rule.name} ")
    assert (problems(audit), audit.ladder) == ("", None)
    assert f"certificates by {rule.name} are not CERTIFY's" in notes(audit)
    assert [at.radius for at in audit.accuracy] == [0.0, 0.1, 0.3, 0.6]
    # What was asked is the radius or nothing, of which there is no mean.
    assert (audit.acr is None) == (rule.name == "decide")


def test_a_log_whose_rows_name_several_rules_is_of_all_of_them() -> None:
    more = [[*row, rule] for row, rule in zip(rows(), ["planned eps=0.1", "planned eps=0.2"] * 250, strict=True)]
    assert parse_log(text(more, header=f"{HEADER}\trule"), name=NAME).rule == "planned eps=0.1 and planned eps=0.2"
    # Of others it may be any column.
    other = [[*row, "majority"] for row in rows()]
    assert parse_log(text(other, header=f"{HEADER}\trule"), name=NAME).rule == "fixed"


def test_a_log_of_a_cascade_is_told_by_its_levels() -> None:
    audit = audited_cascade(cascade_log())
    assert problems(audit) == ""
    assert audit.description.startswith("log of CERTIFY; of a cascade over sigma 1, 0.25; ")
    assert "radii of the first level imply sigma = 1, n = 10,000, alpha = 0.0009, a share of 0.9 of 0.001" in notes(
        audit
    )
    assert audit.ladder is None


def test_a_log_of_a_cascade_by_rule_planned_has_no_problem_and_both_sets_of_columns() -> None:
    lines = cascade_log(PlannedRule(label_stop=False))
    assert lines[0][6:] == ["level", "sigma", "n", "rule"]
    audit = audited_cascade(lines)
    assert problems(audit) == ""
    assert "the number of samples varies by image" in notes(audit)
    first = next(line for line in lines if line[6] == "1")
    first[3] = "9.900000"
    assert "1 radii are beyond " in problems(audited_cascade(lines))


@pytest.mark.parametrize(
    ("level", "place", "value", "told"),
    [
        ("1", 3, "1.234567", r"1 of 400 radii are on no rung of the first level's ladder \(idx \d+: 1\.23457\)"),
        ("2", 3, "0.830000", r"1 of 400 radii are above the largest possible one of the level that answers"),
        ("1", 7, "0.25", r"1 of 400 radii are above the largest possible one"),
    ],
)
def test_radii_that_a_cascade_cannot_have_are_found(level: str, place: int, value: str, told: str) -> None:
    lines = cascade_log()
    changed_line = max((line for line in lines if line[6] == level), key=lambda line: float(line[3]))
    changed_line[place] = value
    assert re.search(told, problems(audited_cascade(lines)))


def test_a_radius_that_no_level_answers_is_found() -> None:
    lines = cascade_log()
    (answered := next(line for line in lines if line[6] == "2"))[6:] = ["", ""]
    assert f"1 image with a radius and no level that answers (idx {answered[0]})" in problems(audited_cascade(lines))


@pytest.mark.parametrize("written", [three_digits, four_decimals, rounded_down])
def test_a_log_without_defects_has_no_problem(written):
    audit = audited(rows(written=written))
    assert problems(audit) == ""
    assert (audit.ladder.sigma, audit.ladder.n, audit.ladder.alpha) == (0.25, 100_000, 0.001)
    assert audit.images == "500 of 10,000 (as it seems), every 20th from idx 0"
    assert ("rounded to the nearest" in notes(audit)) == (written is not rounded_down)


@pytest.mark.parametrize("decimals", [2, 3])
@pytest.mark.parametrize(("sigma", "n"), [(0.25, 10_000), (0.5, 100_000), (1.0, 10_000)])
def test_few_decimals_are_no_significant_digits(decimals, sigma, n):
    """A radius of .136 may be .1355: what was surely proved is no more than what was written before it was rounded."""
    exact = rows(sigma=sigma, n=n, written=lambda radius: repr(float(radius)))
    written = [[*row[:3], f"{float(row[3]):.{decimals}f}", *row[4:]] for row in exact]
    audit = audited(written, name=f"noise_{sigma}")
    assert problems(audit) == ""
    truth = {row[0]: float(row[3]) for row in exact}
    converted = [line.split("\t") for line in rspipe_log(audit).splitlines()[1:]]
    if audit.ladder is not None:
        assert [cells[0] for cells in converted if float(cells[3]) > truth[cells[0]] + 1e-9] == []


@pytest.mark.parametrize("alpha", [0.01, 0.0001])
def test_one_altered_radius_is_found_whatever_alpha_is(alpha):
    """A ladder of a million samples has a rung near every number: that is no explanation."""
    cells = rows(sigma=0.5, n=1000, alpha=alpha, written=four_decimals)
    at = next(k for k, row in enumerate(cells) if 0.5 < float(row[3]) < 1.2)
    audit = audited(changed(3, f"{float(cells[at][3]) + 0.0021:.4f}", at=at, cells=cells), name="noise_0.5")
    assert "1 of 500 radii are on no rung of the ladder" in problems(audit)
    assert audit.ladder.alpha == alpha


@pytest.mark.parametrize("seed", range(6))
def test_three_digits_of_certify_are_no_radii_that_it_did_not_make(seed):
    assert problems(audited(rows(seed=seed, sigma=0.5, written=three_digits), name="noise_0.5")) == ""


def test_numbers_are_those_of_the_rows():
    cells = rows()
    audit = audited(cells)
    credited = [float(row[3]) * (row[1] == row[2]) for row in cells]
    assert audit.acr.estimate == pytest.approx(np.mean(credited), rel=1e-12)
    assert audit.abstained == sum(row[2] == "-1" for row in cells) / len(cells)
    assert audit.saturated == sum(row[3] == "0.953" for row in cells) / len(cells)
    at = {point.radius: point.accuracy for point in audit.accuracy}
    assert at[0.5].estimate == sum(r >= 0.5 for r in credited) / len(cells)
    assert at[0.5].low < at[0.5].estimate < at[0.5].high


@pytest.mark.parametrize(
    ("cells", "told"),
    [
        (rows()[:300] + rows()[301:], "1 row missing in between (from idx 6000)"),
        (rows()[:430], "ends at idx 8580 of 10,000 (as it seems): 70 of 500 rows are missing"),
        ([*rows(), rows()[7]], "1 image in several rows, always the same (idx 140)"),
        ([*rows(), changed(3, "0.1")[5]], "1 of them with contradicting content (idx 100)"),
        ([*rows()[:9], HEADER.split("\t"), *rows()[9:]], "the header stands again in line 11"),
        (changed(3, "1.2"), "1 of 500 radii are above the largest possible one, 0.95286 (idx 100: 1.2)"),
        (changed(3, "0.944"), "1 of 500 radii are on no rung of the ladder (idx 100: 0.944)"),
        (changed(3, "x"), "1 line cannot be read as a row (line 7: radius is 'x', no finite number)"),
        (changed(4, "7"), "correct contradicts label and prediction in 1 row (idx 100)"),
        ([[*row[:2], "-1", "0.0", "0", row[5]] for row in rows()], "every image is abstained on"),
        ([[*row[:2], "-1", *row[3:4], "0", row[5]] for row in rows()], "abstentions with a radius above 0"),
        (rows(alpha=0.01), "alpha is 0.01, not 0.001: with the same counts the ACR at 0.001 is"),
        (rows(sigma=0.5), "the name says sigma = 0.25, but the radii are those of 0.5"),
    ],
)  # fmt: skip
def test_defects_are_found(cells, told):
    assert told in problems(audited(cells))


def test_the_acr_at_another_alpha_is_that_of_the_same_counts():
    audit = audited(rows(alpha=0.01, written=rounded_down))
    expected = audited(rows(alpha=0.001, written=rounded_down)).acr.estimate
    (stated,) = re.findall(r"ACR at 0.001 is (\d\.\d+)", problems(audit))
    # Printed with four decimals, of radii rounded down at the sixth.
    assert float(stated) == pytest.approx(expected, abs=5e-5 + 2e-6)


def test_radii_rounded_up_are_a_problem():
    up = rows(written=lambda radius: f"{np.ceil(radius * 1e4) / 1e4:.4f}")
    audit = audited(up)
    assert audit.ladder.rounding == "up"
    assert "radii are rounded up" in problems(audit)


def test_rounding_that_lifts_a_radius_over_a_threshold_is_told():
    # n_a = 97,838 of 100,000 gives .4998, which three digits write as 0.5.
    audit = audited(changed(3, "0.5", cells=changed(2, "3", cells=changed(1, "3"))))
    assert "for that reason alone: " in notes(audit)


def test_a_model_of_one_class_is_told():
    collapsed = [[row[0], row[1], "9", "0.953", str(int(row[1] == "9")), row[5]] for row in rows()]
    assert "the model has collapsed: every prediction is class 9" in problems(audited(collapsed))


@pytest.mark.parametrize("radius", ["-1", "nan", ""])
def test_images_without_a_certificate_stay_in_the_mean(radius):
    """Seen: rows without a radius dropped out, and the ACR was that of the others, .3214 for .3005."""
    cells = rows()
    right = [row for row in cells if row[1] == row[2]][:30]
    for row in right:
        row[3] = radius
    audit = audited(cells)
    gone = {id(row) for row in right}
    credited = [0.0 if id(row) in gone else float(row[3]) * (row[1] == row[2]) for row in cells]
    assert audit.acr.estimate == pytest.approx(np.mean(credited), rel=1e-12)
    assert problems(audit) == ""
    assert "30 rows with a class and no radius (below 0, nan or empty; idx 0, " in notes(audit)
    still = np.mean([row[1] == row[2] and id(row) not in gone for row in cells])
    assert audit.accuracy[0].accuracy.estimate == pytest.approx(still, rel=1e-12)
    for export in (cohen_log, rspipe_log):
        assert audit_log(parse_log(export(audit).encode(), name=NAME)).acr.estimate == pytest.approx(
            audit.acr.estimate, abs=1e-3
        )


def test_a_running_count_of_correct_is_understood():
    cells, correct = rows(), 0
    for row in cells:
        correct += row[1] == row[2]
        row[4] = str(correct)
    audit = audited(cells)
    assert problems(audit) == ""
    assert "correct is a running count" in notes(audit)


def test_samples_that_vary_by_image_leave_n_open():
    cells = [[*row, str(1000 + i)] for i, row in enumerate(rows())]
    audit = audited(cells, header=f"{HEADER}\tsamplesize")
    assert audit.ladder is None
    assert "varies by image" in notes(audit)


def test_radii_of_no_ladder_are_told():
    rng = np.random.default_rng(1)
    cells = [[*row[:3], f"{rng.uniform(0.1, 0.9):.4f}", *row[4:]] for row in rows()]
    assert "no n and alpha that were tried explain the radii" in problems(audited(cells))


@pytest.mark.parametrize(
    ("known", "told"),
    [
        (Known(n=10_000), "n is 100,000, not 10,000"),
        (Known(alpha=0.0001), "alpha is 0.001, not 0.0001"),
        (Known(images=26_032), "ends at idx 9980 of 26,032 images: 802 of 1,302 rows are missing"),
        (Known(images=5000), "idx 9980 is beyond 5,000 images"),
    ],
)
def test_what_is_known_beforehand_is_checked(known, told):
    assert told in problems(audited(rows(), known=known))


@pytest.mark.parametrize("known", [{"sigma": 0}, {"n": 0}, {"alpha": 1.0}, {"images": -1}])
def test_nonsense_is_refused(known):
    with pytest.raises(ValueError, match="must lie between"):
        Known(**known)


def test_our_export_claims_what_was_proved_and_says_from_what():
    audit = audited(rows())
    log = parse_log(rspipe_log(audit).encode(), name="export")
    again = audit_log(log)
    assert again.problems == 0
    assert again.ladder == Ladder(0.25, 100_000, 0.001, "down", again.ladder.evidence)
    # What three digits round to the nearest lies half a digit to either side; six decimals are rounded down.
    assert np.all(again.radius <= audit.radius + 0.5e-3)
    assert np.all(again.radius >= audit.radius - 0.5e-3 - 1e-6)
    assert log.extra["n_a"].count("") == np.sum(audit.predict == ABSTAIN)


def test_the_export_to_cohens_columns_keeps_the_radii_and_drops_the_rest():
    cells = [[*row, "7"] for row in [*rows(), rows()[3]]]
    audit = audited(list(reversed(cells)), header=f"{HEADER}\tmore")
    log = parse_log(cohen_log(audit).encode(), name="export")
    assert log.header == tuple(HEADER.split("\t"))
    assert log.idx.tolist() == [20 * i for i in range(500)]
    assert log.radius.tolist() == [float(row[3]) for row in rows()]


def mutations(data, rng):
    """Return a damaged copy of a log; every kind of damage in turn."""
    lines = data.split(b"\n")
    cells = [line.split(b"\t") for line in lines]
    wild = [b"1e308", b"-1e308", b"9" * 30, b"999999999999999", b"nan", b"-inf", b"-5", b"1e-320", b"", b"1_0", b"0x10"]
    return (
        lambda: data[: rng.integers(len(data))],
        lambda: data[rng.integers(len(data)) :],
        lambda: rng.bytes(int(rng.integers(1, 2000))),
        lambda: b"",
        lambda: b"\n".join(b"\t".join(row[i] for i in rng.permutation(len(row))) for row in cells),
        lambda: b"\n".join(b"\t".join(row[i] for i in (3, 0, 5, 1, 4, 2)) for row in cells if len(row) == 6),
        lambda: b"\n".join(lines[i] for i in rng.permutation(len(lines))),
        lambda: b"\n".join(lines[i] for i in rng.integers(0, len(lines), len(lines))),
        lambda: b"\n".join(lines[:1] + [b"\t".join(wild[rng.integers(len(wild))] if rng.random() < 0.02 else cell
                                                   for cell in row) for row in cells[1:]]),
        lambda: bytes(byte if rng.random() > 0.002 else int(rng.integers(256)) for byte in data),
        lambda: b"\n".join(b"\t".join(row[: rng.integers(1, 7)]) for row in cells),
        lambda: data.replace(b"\n", b"\r\n", int(rng.integers(len(lines)))),
        lambda: b"\n".join(lines[1 : 1 + rng.integers(1, 5)]),
    )  # fmt: skip


@pytest.mark.parametrize("kind", range(13))
def test_a_damaged_log_is_a_result_or_one_clear_line(kind):
    told = []
    for seed in range(8):
        rng = np.random.default_rng([kind, seed])
        written = (three_digits, four_decimals)[seed % 2]
        data = mutations(text(rows(images=60, seed=seed, written=written)), rng)[kind]()
        try:
            audit = audit_log(parse_log(data, name=NAME))
        except LogError as error:
            told.append(str(error))
            continue
        for word, line in audit_lines(audit):
            assert word
            assert "\n" not in line
        for export in (cohen_log, rspipe_log):
            assert parse_log(export(audit).encode(), name="export").idx.tolist() == audit.idx.tolist()
    assert [line for line in told if not re.fullmatch(f"{NAME}: .{{5,120}}", line)] == []


PUBLISHED = {
    # Name: images, alpha of the radii, ACR, what else is to be said.
    "cohen-cifar10-r110-sigma0.25": (500, 0.01, None, "alpha is 0.01"),
    "cohen-cifar10-r110-sigma0.50": (500, 0.01, None, "alpha is 0.01"),
    "cohen-imagenet-r50-sigma0.25": (427, 0.01, None, "73 of 500 rows are missing"),
    "smoothadv-repo-cohen-cifar10-r110-sigma0.25-10000": (10_000, 0.001, 0.4240, ""),
    "consistency-repo-mnist-macer-sigma0.25": (10_000, 0.001, 0.92065, ""),
    "smoothadv-cifar10-collapsed-sigma1.00": (500, 0.001, None, "collapsed"),
    "smoothadv-cifar10-short-sigma0.25": (100, 0.001, None, ""),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_logs_are_told_for_what_they_are(name, shared_data):
    path = shared_data / "certify-logs" / f"{name}.tsv"
    if not path.is_file():
        pytest.skip(f"needs {path}")
    images, alpha, acr, told = PUBLISHED[name]
    audit = audit_log(read_log(path))
    assert len(audit.idx) == images
    assert (audit.ladder.n, audit.ladder.alpha) == (100_000, alpha)
    assert (audit.problems > 0) == bool(told)
    assert told in problems(audit)
    if acr is not None:
        # The published value has four or five digits.
        assert audit.acr.estimate == pytest.approx(acr, abs=5e-5)
