"""Certified robustness by randomized smoothing.

The library of single-process computations; the pipeline around it lives in `rspipe.stages` and `pipelines/`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rspipe.certificates import ABSTAIN as ABSTAIN
    from rspipe.certificates import certified_radius as certified_radius
    from rspipe.certificates import clopper_pearson_lower as clopper_pearson_lower
    from rspipe.certificates import clopper_pearson_upper as clopper_pearson_upper
    from rspipe.checkpoints import check_clean_accuracy as check_clean_accuracy
    from rspipe.checkpoints import load_checkpoint as load_checkpoint
    from rspipe.deployment import deploy as deploy
    from rspipe.methods.macer import macer_loss as macer_loss
    from rspipe.metrics import average_certified_radius as average_certified_radius
    from rspipe.metrics import certified_accuracy as certified_accuracy
    from rspipe.smoothed import Certificate as Certificate
    from rspipe.smoothed import certify as certify
    from rspipe.smoothed import predict as predict
    from rspipe.weights import WeightSolution as WeightSolution
    from rspipe.weights import solve_weights as solve_weights

_HOME = {
    "ABSTAIN": "certificates",
    "Certificate": "smoothed",
    "average_certified_radius": "metrics",
    "certified_accuracy": "metrics",
    "certified_radius": "certificates",
    "certify": "smoothed",
    "check_clean_accuracy": "checkpoints",
    "clopper_pearson_lower": "certificates",
    "clopper_pearson_upper": "certificates",
    "deploy": "deployment",
    "load_checkpoint": "checkpoints",
    "macer_loss": "methods.macer",
    "predict": "smoothed",
    "solve_weights": "weights",
    "WeightSolution": "weights",
}

__all__ = sorted(_HOME)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `import rspipe` alone needs neither torch nor cvxpy."""
    if name not in _HOME:
        raise AttributeError(f"module 'rspipe' has no attribute {name!r}")
    value = getattr(import_module(f"rspipe.{_HOME[name]}"), name)
    globals()[name] = value
    return value
