"""Facts about reading certification logs: every dialect gives the same rows, and nothing else gets through."""

import re

import numpy as np
import pytest

from rspipe.audit.log import Precision, parse_log, radius_precision, read_log, write_log
from rspipe.errors import LogError
from tests.log_builder import HEADER, rows, text

CELLS = rows(images=40)


def assert_same_rows(log, cells=CELLS):
    expected = [[int(row[0]), int(row[1]), int(row[2]), float(row[3])] for row in cells]
    rows = np.stack([log.idx, log.label, log.predict, log.radius], axis=1)
    np.testing.assert_array_equal(rows, expected)
    assert log.unreadable == ()


def with_columns(cells, names):
    place = {name: index for index, name in enumerate(HEADER.split("\t"))}
    return text([[row[place[name]] for name in names] for row in cells], header="\t".join(names))


def markdown(cells):
    """Return a table with bars, and a rule below the header."""
    lines = ["|".join(["", *row, ""]) for row in [HEADER.split("\t"), ["---"] * 6, *cells]]
    return "\n".join(lines).encode()


def logged(cells, *, before):
    """Return a log as a logger writes it, with its own text at the front of every line."""
    return "\n".join(before + "\t".join(row) for row in [HEADER.split("\t"), *cells]).encode()


@pytest.mark.parametrize(
    "data",
    [
        text(CELLS),
        text(CELLS).removesuffix(b"\n"),
        text(CELLS, end="\r\n"),
        b"\xef\xbb\xbf" + text(CELLS),
        text(CELLS).replace(b"\t", b","),
        with_columns(CELLS, ["radius", "predict", "time", "idx", "correct", "label"]),
        text([[*row, "7"] for row in CELLS], header=f"{HEADER}\testimated_pr"),
        text(CELLS, header="IDX\tLabel\tpredict\tradius\tcorrect\ttime"),
        b"Namespace(sigma=0.25)\nFiles already downloaded\n" + text(CELLS),
        text(CELLS) + b"\nmean time 15.4\nACR: 0.5\n",
        text(CELLS).split(b"\n", 1)[1],
        text(CELLS).replace(b"\t", b";"),
        text([[*row[:3], row[3].replace(".", ","), *row[4:]] for row in CELLS]).replace(b"\t", b";"),
        text(CELLS).replace(b"\t", b"  "),
        text(CELLS).split(b"\n", 1)[1].replace(b"\t", b","),
        markdown(CELLS),
        text(CELLS).decode().encode("utf-16"),
        text(CELLS, end="\r\n").decode().encode("utf-16-le"),
        text(CELLS).decode().encode("utf-16-be"),
        logged(CELLS, before="INFO:root:"),
        logged(CELLS, before="2024-11-29 02:31:56,123 - INFO - "),
        logged(CELLS, before="[certify] "),
        logged(CELLS, before="INFO: ").replace(b"\t", b","),
        text([[f'"{cell}"' for cell in row] for row in CELLS]).replace(b"\t", b","),
        text([[*row[:4], str(row[4] == "1"), row[5]] for row in CELLS]),
        text([[*row[:4], {"1": "yes", "0": "no"}[row[4]], row[5]] for row in CELLS]),
        text([[f"{cell}.0" for cell in row[:3]] + row[3:] for row in CELLS]),
        text([[*row, ""] for row in CELLS]),
        text(CELLS, header="original_idx\ttrue_label\tpred\tcertified_radius\tis_correct\tseconds"),
        text(CELLS, header="Image Idx\tGround-Truth\tPrediction\tRadii\tCorrect\tElapsed"),
        text(CELLS, header="# idx\tlabel\tpredict\tradius\tcorrect\ttime"),
        text([[*row[:5], "1 day, 0:00:14.5"] for row in CELLS]),
    ],
)
def test_every_dialect_holds_the_same_rows(data):
    assert_same_rows(parse_log(data, name="log"))


@pytest.mark.parametrize("end", ["3 0 0 0.5 1 1 day, 0:00:05", "3 0 0 0.5"])
def test_the_last_row_between_blanks_is_no_prose_where_it_has_other_cells(end):
    cells = [[str(i), "0", "0", "0.5", "1", "0:00:01"] for i in range(3)]
    lines = [HEADER.replace("\t", " "), *(" ".join(row) for row in cells), end, "500 images took 3 h"]
    log = parse_log("\n".join(lines).encode(), name="log")
    assert [one.line for one in log.unreadable] == [5]
    assert (len(log.idx), log.prose) == (3, 1)


def test_what_a_dialect_has_beside_the_rows_is_kept():
    log = parse_log(text([[*row, "7"] for row in CELLS], header=f"{HEADER}\tsamplesize") + b"took 3 h\n", name="log")
    assert log.extra == {"samplesize": ("7",) * len(CELLS)}
    assert log.prose == 1
    assert parse_log(text(CELLS, end="\r\n"), name="log").line_ends == "CRLF"


def test_times_are_read_as_seconds_and_as_clock():
    times = ["15.4", "0:02:31.5", "1 day, 0:00:01", "soon"]
    log = parse_log(text([[*row[:5], time] for row, time in zip(CELLS, times, strict=False)]), name="log")
    np.testing.assert_allclose(log.seconds, [15.4, 151.5, 86401, np.nan])


def test_a_log_of_predict_has_no_radii():
    log = parse_log(with_columns(CELLS, ["idx", "label", "predict", "correct", "time"]), name="log")
    assert log.kind == "predict"
    assert not log.radius.any()


def test_a_flag_that_a_radius_was_proved_is_no_radius():
    flagged = [[row[0], row[1], row[2], "-1" if i % 4 else "1", row[4], "9", row[5]] for i, row in enumerate(CELLS)]
    header = "idx\tlabel\tpredict\tradius proved\tcorrect\tlevels_needed\ttime"
    log = parse_log(text(flagged, header=header), name="log")
    assert log.kind == "flags"
    assert log.radius.tolist() == [float(i % 4 == 0) for i in range(len(CELLS))]


@pytest.mark.parametrize(
    ("place", "cell"),
    [
        (0, "x"), (0, "-1"), (0, "9" * 25), (0, "1_0"), (0, "٣"), (1, "1.5"), (1, "tensor(3)"), (2, ""), (2, "nan"),
        (2, "2.5"), (3, "inf"), (3, "1e300"), (3, "1e9999"), (3, "0.5 m"), (4, "maybe"),
    ],
)  # fmt: skip
def test_a_row_with_an_impossible_cell_is_no_row_and_says_why(place, cell):
    damaged = [list(row) for row in CELLS]
    damaged[5][place] = cell
    log = parse_log(text(damaged), name="log")
    (bad,) = log.unreadable
    assert bad.line == 7
    assert bad.reason
    assert len(log.idx) == len(CELLS) - 1


@pytest.mark.parametrize("radius", ["-1", "-1.0", "-0.37", "nan", "NaN", "", "None", "-inf", "ABSTAIN"])
def test_a_class_without_a_radius_is_not_certified_and_counts(radius):
    """It never drops out of the mean: the image is there, abstained on, with radius 0."""
    cells = [list(row) for row in CELLS]
    cells[5][2:5] = [cells[5][1], radius, "1"]
    log = parse_log(text(cells), name="log")
    assert log.unreadable == ()
    assert (log.predict[5], log.radius[5], log.nothing.sum()) == (-1, 0.0, 1)
    assert len(log.idx) == len(CELLS)
    others = np.arange(len(CELLS)) != 5
    assert log.predict[others].tolist() == [int(row[2]) for at, row in enumerate(CELLS) if at != 5]


@pytest.mark.parametrize("predict", ["-1", "-2", "-1.0", "-100", "ABSTAIN", "abstain", "Abstained", "nan", "None", ""])
@pytest.mark.parametrize("radius", ["0.0", "-1", "nan", ""])
def test_an_abstention_may_be_a_name_or_any_negative_number(predict, radius):
    cells = [list(row) for row in CELLS]
    cells[5][2:5] = [predict, radius, "0"]
    log = parse_log(text(cells), name="log")
    if predict in ("nan", "None", "") and radius == "0.0":
        # Nothing in the place of a class is an abstention only where the radius is nothing, too.
        assert [bad.reason for bad in log.unreadable] == [f"predict is {predict!r}, no whole number"]
        return
    assert log.unreadable == ()
    assert (log.predict[5], log.radius[5], log.nothing.sum()) == (-1, 0.0, 0)


def test_a_class_that_is_no_number_is_an_abstention_of_predict():
    names = ["idx", "label", "predict", "correct", "time"]
    cells = [[*row[:2], "nan", *row[3:]] for row in CELLS]
    assert (parse_log(with_columns(cells, names), name="log").predict == -1).all()


def test_a_row_that_was_cut_off_is_no_row():
    log = parse_log(text(CELLS)[:-12], name="log")
    assert [bad.reason for bad in log.unreadable] == ["4 cells instead of 6"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b" \n\n", "empty"),
        (HEADER.encode(), "a header and no rows"),
        (
            text([["0", "tensor(3)", "3", "0.5", "1", "1"]]),
            "none of 1 rows can be read, line 2: label is 'tensor",
        ),
        (text([["x", *row[1:]] for row in CELLS]), "none of 40 rows can be read, line 2: idx is 'x', no whole number"),
        (b"\x89PNG\r\n\x1a\n\x00\xff", "not text"),
        (text(CELLS).replace(b"\t3\t", b"\0"), "zero bytes"),
        (b"epoch\tloss\n1\t0.5\n", "no line with the columns"),
        (b"radius\tCA\n0.0\t0.75\n0.25\t0.6\n", "no line with the columns"),
    ],
)
def test_what_is_no_log_is_one_clear_line(data, message):
    with pytest.raises(LogError, match=f"^some/file: .*{message}") as caught:
        parse_log(data, name="some/file")
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_one_clear_line(tmp_path):
    for path in (tmp_path, tmp_path / "missing.tsv"):
        with pytest.raises(LogError, match=re.escape(str(path))):
            read_log(path)


def test_written_rows_are_read_again(tmp_path):
    path = tmp_path / "log.tsv"
    path.write_text(write_log(CELLS))
    assert_same_rows(read_log(path))


@pytest.mark.parametrize(
    ("texts", "precision"),
    [
        (["0.953", "0.73", "1.91", "4.69e-05", "0.5"], Precision(3, "significant digits")),
        (["0.9529", "0.0001", "1.2000"], Precision(4, "decimals")),
        (["0.952864", "0.100000"], Precision(6, "decimals")),
        (["0.9528641408474786", "0.12345678901234", "1.2345"], Precision(15, "significant digits")),
        ([], Precision(3, "significant digits")),
    ],
)
def test_digits_are_told_from_the_radii_as_written(texts, precision):
    assert radius_precision(texts) == precision


@pytest.mark.parametrize("form", ["{:.2f}", "{:.6f}", "{:.9f}", "{:.3g}", "{:.9g}"])
@pytest.mark.parametrize("rounding", ["nearest", "down", "up"])
def test_what_was_written_stays_as_it_is(form, rounding):
    precision = Precision(int(form[3]), "decimals" if form.endswith("f}") else "significant digits")
    written = np.array([float(form.format(radius)) for radius in np.geomspace(0.011, 3.2, 5000)])
    assert np.abs(precision.write(written, rounding) - written).max() < 1e-14


def test_radii_are_written_nearest_down_or_up():
    radius, precision = np.array([0.0, 0.12449, 0.12451, 0.99999]), Precision(3, "decimals")
    thousandths = {"nearest": [0, 124, 125, 1000], "down": [0, 124, 124, 999], "up": [0, 125, 125, 1000]}
    for rounding, expected in thousandths.items():
        assert precision.write(radius, rounding).tolist() == [whole / 1000 for whole in expected]


def test_neighbours_of_three_digits_lie_a_step_apart():
    radius = np.array([0.953, 1.91, 4.69e-05, 0.0123])
    step = Precision(3, "significant digits").step(radius)
    np.testing.assert_allclose(step, [1e-3, 1e-2, 1e-7, 1e-4])
    for value, apart in zip(radius, step, strict=True):
        assert float(f"{value + apart:.3}") == pytest.approx(value + apart, rel=1e-12)
        assert float(f"{value + 0.4 * apart:.3}") == pytest.approx(value, rel=1e-12)
