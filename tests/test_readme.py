"""What the README says that can be checked against the repository."""

import re
from pathlib import Path

import pytest

import rspipe
from rspipe.commands.options import study_path
from rspipe.study.loading import load_study

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def readme() -> str:
    return (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_the_result_tables_are_of_the_default_study_as_it_is_now(readme: str) -> None:
    study = load_study(study_path(None))
    block = readme.split("<!-- results -->")[1].split("<!-- end of results -->", maxsplit=1)[0]
    assert f"study {study.id}\n" in block
    rows = [line for line in block.splitlines() if re.match(r"\| 0\.\d+ \|", line)]
    specs = [*study.model_specs, *(spec for search in study.search_specs for spec in study.winner_specs(search, {}))]
    labels = {(spec.label, spec.train_sigma) for spec in specs}
    levels = {spec.train_sigma for spec in specs}
    claims = [sigma for claim in study.claims for sigma in (levels if claim.sigma is None else {claim.sigma})]
    assert len(rows) == len(claims) + len(labels) + len(specs) + len(study.ensemble_specs(specs))


def test_the_continuous_check_sets_up_and_tests_as_the_readme_says(readme: str) -> None:
    script = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")
    (install,) = re.findall(r"pip install (-c \S+ -e \S+)", readme)
    assert install in script
    assert "\n    pytest\n" in readme
    assert script.endswith("\npytest\n")


def test_every_file_and_name_of_the_readme_exists(readme: str) -> None:
    paths = set(re.findall(r"`((?:rspipe|pipelines|tests|cluster)/[\w./-]+)`", readme))
    assert len(paths) >= 8
    assert [path for path in paths if not (REPOSITORY / path).exists()] == []
    names = set(re.findall(r"rspipe\.(\w+)\(", readme))
    assert len(names) == 11
    assert [name for name in names if not callable(getattr(rspipe, name))] == []
