"""Certified robustness by randomized smoothing.

The names below are the library: certification with its bounds and metrics, published checkpoints, weights, losses.
Studies on a cluster are run by the `rspipe` command, `rspipe.commands`; they need the packages of `rspipe[pipeline]`.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from rspipe.errors import MissingPackageError, needs_extra

if TYPE_CHECKING:
    from rspipe.ensembles.calibration import Calibration as Calibration
    from rspipe.ensembles.calibration import margin_moments as margin_moments
    from rspipe.ensembles.choice import choose_weights as choose_weights
    from rspipe.ensembles.weights import WeightSolution as WeightSolution
    from rspipe.ensembles.weights import solve_weights as solve_weights
    from rspipe.library.certified import CertifiedDataset as CertifiedDataset
    from rspipe.library.dataset import certify_dataset as certify_dataset
    from rspipe.library.runs import Run as Run
    from rspipe.library.runs import read_run as read_run
    from rspipe.networks.checkpoints import check_clean_accuracy as check_clean_accuracy
    from rspipe.networks.checkpoints import load_checkpoint as load_checkpoint
    from rspipe.networks.deployment import deploy as deploy
    from rspipe.smoothing.cascades import CascadeCertificates as CascadeCertificates
    from rspipe.smoothing.cascades import cascade as cascade
    from rspipe.smoothing.cascades import predict_cascade as predict_cascade
    from rspipe.smoothing.certificates import ABSTAIN as ABSTAIN
    from rspipe.smoothing.certificates import certified_radius as certified_radius
    from rspipe.smoothing.certificates import clopper_pearson_lower as clopper_pearson_lower
    from rspipe.smoothing.certificates import clopper_pearson_upper as clopper_pearson_upper
    from rspipe.smoothing.certify import Certificate as Certificate
    from rspipe.smoothing.certify import certify as certify
    from rspipe.smoothing.certify import predict as predict
    from rspipe.smoothing.decisions import Decision as Decision
    from rspipe.smoothing.decisions import decide as decide
    from rspipe.smoothing.decisions import decision_looks as decision_looks
    from rspipe.smoothing.ensemble import Ensemble as Ensemble
    from rspipe.smoothing.inference import contrast as contrast
    from rspipe.smoothing.inference import difference as difference
    from rspipe.smoothing.metrics import average_certified_radius as average_certified_radius
    from rspipe.smoothing.metrics import certified_accuracy as certified_accuracy
    from rspipe.study import StudyConfig as StudyConfig
    from rspipe.study import load_study as load_study
    from rspipe.tracking.load import load_cascade as load_cascade
    from rspipe.tracking.load import load_classifier as load_classifier
    from rspipe.training.losses import macer_loss as macer_loss

__version__ = "0.1.0"

_HOME = {
    "ABSTAIN": "smoothing.certificates",
    "Calibration": "ensembles.calibration",
    "CascadeCertificates": "smoothing.cascades",
    "Certificate": "smoothing.certify",
    "CertifiedDataset": "library.certified",
    "Decision": "smoothing.decisions",
    "Ensemble": "smoothing.ensemble",
    "Run": "library.runs",
    "StudyConfig": "study",
    "WeightSolution": "ensembles.weights",
    "average_certified_radius": "smoothing.metrics",
    "cascade": "smoothing.cascades",
    "certified_accuracy": "smoothing.metrics",
    "certified_radius": "smoothing.certificates",
    "certify": "smoothing.certify",
    "certify_dataset": "library.dataset",
    "check_clean_accuracy": "networks.checkpoints",
    "choose_weights": "ensembles.choice",
    "clopper_pearson_lower": "smoothing.certificates",
    "clopper_pearson_upper": "smoothing.certificates",
    "contrast": "smoothing.inference",
    "decide": "smoothing.decisions",
    "decision_looks": "smoothing.decisions",
    "deploy": "networks.deployment",
    "difference": "smoothing.inference",
    "load_cascade": "tracking.load",
    "load_checkpoint": "networks.checkpoints",
    "load_classifier": "tracking.load",
    "load_study": "study",
    "macer_loss": "training.losses",
    "margin_moments": "ensembles.calibration",
    "predict": "smoothing.certify",
    "predict_cascade": "smoothing.cascades",
    "read_run": "library.runs",
    "solve_weights": "ensembles.weights",
}

__all__ = sorted(_HOME)  # noqa: PLE0605


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `import rspipe` alone needs neither torch nor cvxpy.

    Raises:
        AttributeError: There is no such name, or a package that it needs is not installed.
        ImportError: The same package is missing, in `from rspipe import name`.
    """
    if name not in _HOME:
        raise AttributeError(f"module 'rspipe' has no attribute {name!r}")
    try:
        with needs_extra(f"rspipe.{name}"):
            value = getattr(import_module(f"rspipe.{_HOME[name]}"), name)
    except MissingPackageError as error:
        # hasattr and tab completion expect an AttributeError; `from rspipe import name` would swallow its message.
        if sys._getframe(1).f_code.co_name == "_handle_fromlist":
            raise
        raise AttributeError(str(error)) from error
    globals()[name] = value
    return value
