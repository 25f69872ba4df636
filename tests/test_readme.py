"""Statements of the READMEs that can be checked against the repository."""

import re
from pathlib import Path

import pytest

import rspipe
from rspipe.commands.options import study_path
from rspipe.ensembles.members import names_seeds
from rspipe.study import load_study

REPOSITORY = Path(__file__).resolve().parent.parent
READMES = (
    "README.md",
    "rspipe/README.md",
    "pipelines/README.md",
    "pipelines/studies/README.md",
    "pipelines/examples/README.md",
    "pipelines/RESULTS.md",
)


def text_of(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


def test_the_result_tables_are_of_the_default_study_as_it_is_now() -> None:
    study = load_study(study_path(None))
    block = text_of("pipelines/RESULTS.md").split("<!-- results -->")[1].split("<!-- end of results -->", maxsplit=1)[0]
    assert f"study {study.id}\n" in block
    rows = [line for line in block.splitlines() if re.match(r"\| 0\.\d+ \|", line)]
    specs = [*study.model_specs, *(spec for search in study.search_specs for spec in study.winner_specs(search, {}))]
    labels = {(spec.label, spec.train_sigma) for spec in specs}
    levels = {spec.train_sigma for spec in specs}
    claims = [sigma for claim in study.claims for sigma in (levels if claim.sigma is None else {claim.sigma})]
    ensembles = [spec for spec in study.ensemble_specs(specs) if not names_seeds(spec.label)]
    choices = sum(len(group.weights) for group in study.ensembles if group.subsets == "of_seeds") * len(levels)
    # A label has a cascade of each of its seeds.
    cascades = [spec for cascade in study.cascades for spec in specs if spec.label == cascade.classifiers[0]]
    cascades_of_ensembles = [one for one in study.cascades if one.classifiers[0] not in {spec.label for spec in specs}]
    count = len(cascades) // len(levels) + len(cascades_of_ensembles)
    assert len(rows) == len(claims) + len(labels) + choices + len(specs) + len(ensembles) + count


def test_the_study_of_the_readme_is_one(tmp_path: Path) -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", text_of("README.md"), re.DOTALL)
    path = tmp_path / "mine.toml"
    path.write_text(block, encoding="utf-8")
    study = load_study(path)
    assert len(study.model_specs) == 4
    assert len(study.ensemble_specs(study.model_specs)) == 4


def test_the_root_readme_is_short() -> None:
    assert len(text_of("README.md").splitlines()) <= 160


def test_the_continuous_check_sets_up_and_tests_as_the_readme_says() -> None:
    readme, script = text_of("README.md"), text_of(".ci/run")
    (install,) = re.findall(r"pip install (-c \S+ -e \S+)", readme)
    assert install in script
    assert "\n    pytest\n" in readme
    assert re.search(r"^pytest\b", script, re.MULTILINE)


@pytest.mark.parametrize("name", READMES)
def test_every_file_that_a_readme_names_exists(name: str) -> None:
    readme = text_of(name)
    paths = set(re.findall(r"`((?:rspipe|pipelines|tests|cluster)/[\w./-]+)`", readme))
    assert [path for path in paths if not (REPOSITORY / path).exists()] == []
    links = set(re.findall(r"\]\(([^)#:]+)\)", readme))
    assert [link for link in links if not (REPOSITORY / name).parent.joinpath(link).exists()] == []


@pytest.mark.parametrize("name", READMES)
def test_every_name_that_a_readme_calls_is_public(name: str) -> None:
    names = set(re.findall(r"\brspipe\.(\w+)\(", text_of(name)))
    assert [name for name in names if name not in rspipe.__all__] == []


def test_the_library_page_calls_what_the_library_has() -> None:
    assert len(set(re.findall(r"\brspipe\.(\w+)\(", text_of("rspipe/README.md")))) == 24
