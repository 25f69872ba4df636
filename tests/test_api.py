"""The public interface: what `import rspipe` offers, and what it does not need."""

import inspect
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import rspipe

SIGNATURES = {
    "certify": (
        ("base_classifier", "x"),
        {"sigma", "n0", "n", "alpha", "seed", "example", "block_size", "batch_size", "noise", "progress"},
    ),
    "certify_dataset": (
        ("models", "images", "labels"),
        {"sigma", "weights", "average", "rule", "n0", "n", "alpha", "seed", "examples", "precision", "block_size"}
        | {"batch_size", "noise", "progress"},
    ),
    "choose_weights": (("weighting", "calibration"), set()),
    "margin_moments": (
        ("models", "images", "labels"),
        {"sigma", "average", "draws", "n", "alpha", "seed", "examples", "precision"},
    ),
    "read_run": (("path",), set()),
    "cascade": (("levels",), {"alpha", "shares", "two_sided"}),
    "predict_cascade": (
        ("levels", "x"),
        {"n", "alpha", "two_sided", "seed", "example", "block_size", "batch_size", "noise"},
    ),
    "predict": (
        ("base_classifier", "x"),
        {"sigma", "n", "alpha", "seed", "example", "block_size", "batch_size", "noise"},
    ),
    "clopper_pearson_lower": (("successes", "n"), {"alpha"}),
    "clopper_pearson_upper": (("successes", "n"), {"alpha"}),
    "certified_radius": (("p_a_lower",), {"sigma"}),
    "average_certified_radius": (("radius", "correct"), set()),
    "certified_accuracy": (("radius", "correct", "radii"), set()),
    "check_clean_accuracy": (("network", "images", "labels"), {"expected", "tolerance", "batch_size"}),
    "decide": (
        ("base_classifier", "x", "radius"),
        {"sigma", "n0", "n", "alpha", "seed", "example", "block_size", "batch_size", "noise"},
    ),
    "decision_looks": (
        ("radius",),
        {"sigma", "n", "alpha", "early_share", "first", "growth", "step", "futility"},
    ),
    "deploy": (("network",), {"precision"}),
    "load_checkpoint": (("path",), {"architecture", "classes", "normalization", "parameters", "denoiser"}),
    "load_cascade": (("run",), {"uri", "device", "precision", "classes", "allow_code"}),
    "load_classifier": (("run",), {"uri", "device", "precision", "classes", "allow_code"}),
    "load_study": (("path",), {"overrides", "allow_code", "auto"}),
    "macer_loss": (("logits", "labels"), {"sigma", "lbd", "gamma", "beta"}),
    "solve_weights": (("mean", "covariance"), {"draws", "method"}),
}

SAMPLING = {"alpha": 0.001, "seed": 0, "example": 0, "block_size": 1000, "batch_size": None, "noise": "auto"}

BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ImportError(f"{{name}} is blocked")

sys.meta_path.insert(0, Blocker())
"""

TRAINED_AND_CERTIFIED = """
from rspipe.data.sources import load_dataset
from rspipe.data.spec import DigitsData
from rspipe.execution.worker import set_deterministic
from rspipe.networks.deployment import deploy
from rspipe.smoothing.certify import certify
from rspipe.training.fitting import fit
from rspipe.training.methods.smoothadv import SmoothAdv
from rspipe.training.spec import ModelSpec, TrainingSpec

set_deterministic()
data = load_dataset(DigitsData())
spec = ModelSpec(
    label="model",
    data=DigitsData(),
    architecture="digits_cnn",
    method=SmoothAdv(name="smoothadv", T=1, m=2, eps=0.25),
    training=TrainingSpec(epochs=1, batch_size=256, lr=0.01, grad_clip=1.0),
    train_sigma=0.25,
    seed=0,
)
network = deploy(fit(spec, data).network)
certify(network, data.test.images[0], sigma=0.25, n0=10, n=100)
"""


def modules_without_ray() -> list[str]:
    """Return all modules but those of the wings that need Ray or MLflow, and the one that builds on Ray's classes."""
    root = Path(rspipe.__file__).parent
    paths = [path.relative_to(root.parent) for path in root.rglob("*.py") if path != root / "execution" / "trainer.py"]
    parts = [path.with_suffix("").parts for path in paths if path.parts[1] not in ("commands", "stages", "tracking")]
    return sorted(".".join(p[:-1] if p[-1] == "__init__" else p) for p in parts)


def run(code: str, *, blocked: tuple[str, ...] = ()) -> str:
    """Run code in a Python of its own in which some packages cannot be imported."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", BLOCKER.format(blocked=set(blocked)) + code],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", sorted(SIGNATURES))
def test_a_public_function_takes_data_by_position_and_parameters_by_keyword(name: str) -> None:
    parameters = inspect.signature(getattr(rspipe, name)).parameters.values()
    data = tuple(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD)
    keywords = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert (data, keywords) == SIGNATURES[name]


@pytest.mark.parametrize(
    ("name", "defaults"),
    [
        ("certify", {"n0": 100, "n": 100_000, "progress": False, **SAMPLING}),
        ("predict", {"n": 1000, **SAMPLING}),
        ("predict_cascade", {"n": 1000, "two_sided": False, **SAMPLING}),
        ("macer_loss", {"lbd": 12.0, "gamma": 8.0, "beta": 16.0}),
        ("solve_weights", {"method": "esbrs_ratio", "draws": float("inf")}),
    ],
)
def test_defaults_are_those_documented(name: str, defaults: dict[str, object]) -> None:
    parameters = inspect.signature(getattr(rspipe, name)).parameters.values()
    assert {p.name: p.default for p in parameters if p.default is not p.empty} == defaults


def test_every_public_name_is_there_and_documented() -> None:
    assert set(SIGNATURES) <= set(rspipe.__all__)
    for name in rspipe.__all__:
        assert name == "ABSTAIN" or getattr(rspipe, name).__doc__


def test_abstention_is_minus_one() -> None:
    assert rspipe.ABSTAIN == -1


def test_tab_completion_shows_the_public_names_alone() -> None:
    assert [name for name in dir(rspipe) if not name.startswith("_")] == rspipe.__all__
    typed = Path(rspipe.__file__).read_text(encoding="utf-8")
    assert sorted(re.findall(r"import \w+ as (\w+)$", typed, re.MULTILINE)) == rspipe.__all__


def test_the_version_is_that_of_the_installed_package() -> None:
    assert rspipe.__version__ == version("rspipe")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'rspipe' has no attribute 'certifi'"):
        rspipe.certifi  # noqa: B018
    assert not hasattr(rspipe, "certifi")


def test_importing_the_package_alone_imports_nothing_heavy() -> None:
    assert (
        run("import rspipe; print(sorted({'torch', 'numpy', 'scipy', 'cvxpy', 'pydantic'} & set(sys.modules)))")
        == "[]\n"
    )


@pytest.fixture(scope="module")
def brought_in() -> list[set[str]]:
    """Modules of a Python without Ray, MLflow and cvxpy: with all wings, and once it has trained too."""
    wings = f"from importlib import import_module\nfor m in {modules_without_ray()!r}: import_module(m)"
    find = "from rspipe.networks.architectures import ARCHITECTURES, find_architecture"
    all_found, told = "list(map(find_architecture, ARCHITECTURES))", "print(*sys.modules)"
    code = "\n".join([wings, find, all_found, told, TRAINED_AND_CERTIFIED, told])
    done = run(code, blocked=("ray", "mlflow", "cvxpy"))
    return [set(line.split()) for line in done.splitlines()]


def test_the_wings_below_the_stages_are_imported_without_ray_mlflow_and_cvxpy(brought_in: list[set[str]]) -> None:
    modules = {"rspipe", "rspipe.ensembles.weights", "rspipe.training.methods.macer", "rspipe.training.fitting"}
    assert modules <= set(modules_without_ray()) <= brought_in[0]


def test_torchvision_is_imported_only_where_it_is_used(brought_in: list[set[str]]) -> None:
    assert "torchvision" not in brought_in[0]


def test_neither_training_nor_certification_brings_in_the_compiler(brought_in: list[set[str]]) -> None:
    assert not {"torch._dynamo", "torch._inductor", "sympy"} & brought_in[1]
