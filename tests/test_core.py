"""The core in a fresh environment: the wheel, and what its own metadata requires, and nothing else."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import rspipe
from tests.processes import REPOSITORY

EXTRA = "pip install 'rspipe[pipeline]'"
CHECKPOINT = "load_checkpoint(Path('a.pt'), architecture={!r}, classes=10, normalization='none')"


def required(requirements: Iterable[str], known: dict[str, Distribution]) -> dict[str, Distribution]:
    """Return the distributions that requirements without an extra lead to, as this environment has them."""
    for requirement in map(Requirement, requirements):
        needed = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if needed and requirement.name not in known:
            installed = distribution(requirement.name)
            assert requirement.specifier.contains(installed.version, prereleases=True), requirement
            known[requirement.name] = installed
            required(installed.requires or [], known)
    return known


def link(installed: Distribution, target: Path) -> None:
    """Make a distribution importable from another environment's site-packages."""
    for top in {file.parts[0] for file in installed.files or []} - {"..", "__pycache__"}:
        if not top.endswith(".pth") and not (target / top).exists():
            (target / top).symlink_to(Path(str(installed.locate_file(top))))


@dataclass(frozen=True)
class Environment:
    """A virtual environment."""

    folder: Path

    @property
    def site_packages(self) -> Path:
        """Where its packages are."""
        return next(self.folder.glob("lib/python*/site-packages"))

    def run(self, program: str, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run one of its programs in its folder, out of reach of this environment."""
        return subprocess.run(
            [str(self.folder / "bin" / program), *words],
            cwd=self.folder,
            env={"PATH": str(self.folder / "bin"), "HOME": str(self.folder), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )

    def evaluate(self, code: str) -> str:
        """Return what its Python prints."""
        done = self.run("python", "-W", "error", "-c", code)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel, built from a copy: a build leaves folders behind."""
    copy = tmp_path_factory.mktemp("project")
    for name in ("rspipe", "pipelines/studies"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, copy / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(REPOSITORY / name, copy / name)
    # The build that pip would start, which takes a third of the time without pip.
    build = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    subprocess.run([sys.executable, "-c", build], cwd=copy, check=True, stdout=subprocess.DEVNULL)
    (path,) = (copy / "dist").glob("rspipe-*.whl")
    return path


@pytest.fixture(scope="module")
def core(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """A fresh environment with the wheel and what `pip install rspipe` would bring, linked from this one."""
    fresh = Environment(tmp_path_factory.mktemp("fresh") / "venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(fresh.folder)], check=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(fresh.folder / "bin" / "python")]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)
    (own,) = fresh.site_packages.glob("rspipe-*.dist-info")
    for installed in required(Distribution.at(own).requires or [], {}).values():
        link(installed, fresh.site_packages)
    return fresh


def test_the_core_requires_numpy_scipy_and_torch_alone(core: Environment) -> None:
    code = "import importlib.metadata as m, json; print(json.dumps(m.requires('rspipe')))"
    requirements = [Requirement(text) for text in json.loads(core.evaluate(code))]
    always = {requirement.name for requirement in requirements if requirement.marker is None}
    assert always == {"numpy", "scipy", "torch"}
    absent = [name for name in ("pydantic", "ray", "cvxpy", "tyro") if (core.site_packages / name).exists()]
    assert absent == []


def test_the_package_says_its_names_and_its_version(core: Environment) -> None:
    names = core.evaluate("import rspipe; print(*(name for name in dir(rspipe) if not name.startswith('_')))").split()
    assert names == rspipe.__all__
    assert core.evaluate("import rspipe; print(rspipe.__version__)") == rspipe.__version__


NAMES = ("load_study", "StudyConfig", "load_classifier")
CALLS = {
    "solve_weights([1.0, 2.0], [[1.0, 0.1], [0.1, 1.0]])": "rspipe.solve_weights needs cvxpy",
    CHECKPOINT.format("resnet50"): "architecture 'resnet50' needs torchvision",
    CHECKPOINT.format("resnet18"): "architecture 'resnet18', none of ",
}


@pytest.fixture(scope="module")
def answers(core: Environment) -> list[str]:
    """The lines that the core's Python prints of NAMES, three each, and of CALLS; the last is of core_alone.py.

    In one process: to import torch takes two seconds.
    """
    code = "import rspipe"
    for name in NAMES:
        attempts = ((f"rspipe.{name}", "AttributeError"), (f"from rspipe import {name}", "ImportError"))
        code += "".join(f"\ntry: {attempt}\nexcept {error} as error: print(error)" for attempt, error in attempts)
        code += f"\nprint(hasattr(rspipe, {name!r}), getattr(rspipe, {name!r}, 3))"
    code += "\nimport torch; from pathlib import Path; torch.save({'a': torch.ones(1)}, 'a.pt')"
    code += "".join(f"\ntry: rspipe.{call}\nexcept ImportError as error: print(error)" for call in CALLS)
    work = REPOSITORY / "tests" / "core_alone.py"
    code += f"\nimport runpy, sys; sys.argv[1:] = ['.']; runpy.run_path({str(work)!r}, run_name='__main__')"
    code += "\nprint('all done')"
    return core.evaluate(code).splitlines()


def test_the_library_works_on_the_core_alone(answers: list[str]) -> None:
    assert answers[-1] == "all done"


def test_names_of_the_pipeline_say_which_extra_they_need(answers: list[str]) -> None:
    assert len(answers) == 3 * len(NAMES) + len(CALLS) + 1
    for place, name in enumerate(NAMES):
        *messages, looked_up = answers[3 * place : 3 * place + 3]
        for message in messages:
            assert message.startswith(f"rspipe.{name} needs ")
            assert message.endswith(f", which is not installed; {EXTRA}")
        assert looked_up == "False 3"


def test_calls_that_need_the_pipeline_say_which_extra(answers: list[str]) -> None:
    for message, says in zip(answers[3 * len(NAMES) : -1], CALLS.values(), strict=True):
        assert message.startswith(says)
        assert message.endswith(f", which is not installed; {EXTRA}")


def test_the_command_answers_without_the_pipeline(core: Environment) -> None:
    assert core.run("rspipe", "--version").stdout == f"rspipe {rspipe.__version__}\n"
    assert "\n  study  " in core.run("rspipe", "--help").stdout


def test_a_command_that_needs_the_pipeline_says_which_extra(core: Environment) -> None:
    done = core.run("rspipe", "study", "digits")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: rspipe study needs rich, which is not installed; {EXTRA}\n"


def data_files(package: Path) -> set[str]:
    """Return what a package has beside modules."""
    paths = [Path(folder, name) for folder, _, names in os.walk(package, followlinks=True) for name in names]
    return {str(path.relative_to(package)) for path in paths if path.suffix not in (".py", ".pyc", ".md")}


def test_the_wheel_has_the_studies_and_the_templates_of_the_report(core: Environment) -> None:
    installed = data_files(core.site_packages / "rspipe")
    assert {"commands/studies/digits.toml", "py.typed"} < installed
    assert installed == data_files(REPOSITORY / "rspipe")
    assert not (core.site_packages / "rspipe" / "commands" / "studies").is_symlink()
