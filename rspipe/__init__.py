"""Certified robustness by randomized smoothing.

The library of single-process computations; the pipeline around it lives in `rspipe.stages` and `pipelines/`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rspipe.ensembles.weights import WeightSolution as WeightSolution
    from rspipe.ensembles.weights import solve_weights as solve_weights
    from rspipe.networks.checkpoints import check_clean_accuracy as check_clean_accuracy
    from rspipe.networks.checkpoints import load_checkpoint as load_checkpoint
    from rspipe.networks.deployment import deploy as deploy
    from rspipe.smoothing.certificates import ABSTAIN as ABSTAIN
    from rspipe.smoothing.certificates import certified_radius as certified_radius
    from rspipe.smoothing.certificates import clopper_pearson_lower as clopper_pearson_lower
    from rspipe.smoothing.certificates import clopper_pearson_upper as clopper_pearson_upper
    from rspipe.smoothing.certify import Certificate as Certificate
    from rspipe.smoothing.certify import certify as certify
    from rspipe.smoothing.certify import predict as predict
    from rspipe.smoothing.metrics import average_certified_radius as average_certified_radius
    from rspipe.smoothing.metrics import certified_accuracy as certified_accuracy
    from rspipe.training.losses import macer_loss as macer_loss


_HOME = {
    "ABSTAIN": "smoothing.certificates",
    "Certificate": "smoothing.certify",
    "average_certified_radius": "smoothing.metrics",
    "certified_accuracy": "smoothing.metrics",
    "certified_radius": "smoothing.certificates",
    "certify": "smoothing.certify",
    "check_clean_accuracy": "networks.checkpoints",
    "clopper_pearson_lower": "smoothing.certificates",
    "clopper_pearson_upper": "smoothing.certificates",
    "deploy": "networks.deployment",
    "load_checkpoint": "networks.checkpoints",
    "macer_loss": "training.losses",
    "predict": "smoothing.certify",
    "solve_weights": "ensembles.weights",
    "WeightSolution": "ensembles.weights",
}


__all__ = sorted(_HOME)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `import rspipe` alone needs neither torch nor cvxpy."""
    if name not in _HOME:
        raise AttributeError(f"module 'rspipe' has no attribute {name!r}")
    value = getattr(import_module(f"rspipe.{_HOME[name]}"), name)
    globals()[name] = value
    return value
