"""Study files that would hang or crash a parser, or command a terminal, are refused in a line within moments."""

import random
import time
from pathlib import Path

import pytest

from rspipe.errors import StudyError, nearest
from rspipe.study.loading import study_of_text
from tests.damages import mutate_studies
from tests.run_builder import EVERYTHING

BOMBS = {
    "a number of 5,000 digits": ("n0 = 20", "n0 = " + "9" * 5000, r"thousands of digits; they end at 2\^63"),
    "a number of 4,000 digits": ("n0 = 20", "n0 = " + "9" * 4000, r"certify\.n0: a whole number of 13,288 bits"),
    "a hexadecimal bomb": ("n0 = 20", "n0 = 0x" + "f" * 5000, r"certify\.n0: a whole number of 20,000 bits"),
    "lists of 500 levels": ("[weigh]", "[x]\ny = " + "[" * 500 + "]" * 500 + "\n[weigh]", "more than 32 deep"),
    "tables of 500 levels": ("[weigh]", "[x]\ny = " + "{a=" * 500 + "1" + "}" * 500 + "\n[weigh]", "more than 32 deep"),
    "a list of 40 levels": ("images = 4", "images = " + "[" * 40 + "]" * 40, "more than 32 deep; flatten it"),
    "a key of 200,000 parts": (
        "[weigh]",
        ".".join(["a"] * 200_000) + " = 1\n[weigh]",
        "a key has more than 1,000 parts",
    ),
    "a table of 200,000 parts": ("[weigh]", "[" + ".".join(["a"] * 200_000) + "]\n[weigh]", "more than 1,000 parts"),
    "a hundred million levels": (
        "trials = 2",
        "trials = 2\nalgorithm = { name = 'grid', levels = 100_000_000 }",
        r"algorithm\.levels = 100000000 must be at most 10000",
    ),
    "a billion trials": ("trials = 2", "trials = 1_000_000_000", r"trials = 1000000000 must be at most"),
    "200,000 seeds": ("seeds = [0, 1]", f"seeds = {[*range(200_000)]}", "100,000 values are too many"),
    "a name of 300 characters": (
        '"small"',
        '"' + "s" * 300 + '"',
        "must have at most 100 characters, for it names files",
    ),
    "a label that leaves no room for that of trials": (
        '"tuned"',
        '"' + "t" * 75 + '"',
        "must have at most 72 characters, for it names files",
    ),
    "a text of a megabyte": ('name = "gaussian" }', 'name = "' + "g" * 1_000_000 + '" }', "is longer than 10,000"),
    "a key of a megabyte": ("n0 = 20", "n" * 1_000_000 + " = 20", "has 1,000,000 characters; shorten it"),
    "an escape sequence": (
        'name = "small"',
        'name = "small"\ntitle = "\\u001b[31mred"',
        "characters that control a terminal",
    ),
    "a text that is turned round": ('name = "small"', 'name = "small"\ntitle = "a\\u202eb"', r"title: 'a\\u202eb' has"),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused_in_a_line_within_seconds(bomb: str) -> None:
    before, after, says = BOMBS[bomb]
    assert before in EVERYTHING
    began = time.process_time()
    with pytest.raises(StudyError, match=says) as refused:
        study_of_text(EVERYTHING.replace(before, after, 1), path=Path("bomb.toml"))
    assert time.process_time() - began < 3
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 300


def test_a_bomb_in_an_override_is_refused_too() -> None:
    for override in ("certify.n=" + "9" * 5000, "certify.images=" + "[" * 500, ".".join(["a"] * 50) + "=1"):
        with pytest.raises(StudyError) as refused:
            study_of_text(EVERYTHING, path=Path("bomb.toml"), overrides=[override])
        assert str(refused.value).isprintable()


def test_a_study_file_may_begin_with_a_byte_order_mark() -> None:
    plain, marked = (study_of_text(text, path=Path("s.toml")) for text in (EVERYTHING, "\ufeff" + EVERYTHING))
    assert plain == marked


def test_files_of_a_study_have_names_that_any_file_system_takes() -> None:
    label, text = "m" * 80, EVERYTHING.replace("0.25, 0.5]", "0.25, 0.123456789]")
    text = text.replace("seeds = [0, 1]", f"seeds = [0, {2**63 - 1}]")
    text = text.replace("[[models]]", f'[[models]]\nlabel = "{label}"', 1).replace('"gaussian x2', f'"{label} x2')
    text = text.replace('classifiers = "gaussian"', f'classifiers = "{label}"').replace('["gaussian",', f'["{label}",')
    study = study_of_text(text, path=Path("s.toml"))
    ids = [study.id, *(one.id for one in study.model_specs), *(one.id for one in study.search_specs)]
    ids += [one.id for one in study.ensemble_specs(study.model_specs)]
    assert len(ids) == 10
    # What is appended is .json or .npz, and .damaged-99.
    assert max(len(one.encode()) for one in ids) + len(".json.damaged-99") <= 143


def test_mutated_study_files_are_studies_or_lines() -> None:
    outcomes = mutate_studies(60, random.Random(0))
    assert min(outcomes["refused"], outcomes["a study"]) > 5


def test_of_hundreds_of_valid_names_a_refusal_lists_the_first() -> None:
    assert nearest("?", ["alpha", "beta"]) == "; valid names: alpha, beta"
    line = nearest("?", [f"model{index:04}" for index in range(1000)])
    assert len(line) < 900
    assert line.startswith("; valid names: model0000, model0001, ")
    assert line.endswith(f" and {1000 - line.count('model')} more")
