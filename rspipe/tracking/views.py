"""Views of MLflow's pages that a link opens: columns, order and charts, kept as a tag of the experiment.

The form of the tag is that of the button "Share" in MLflow 3's pages. A test opens the links in a browser.
"""

from collections.abc import Sequence
from typing import Any

from rspipe.smoothing.certificates import radius_cap
from rspipe.study.config import StudyConfig

SHARED = "mlflow.sharedViewState."
"""Beginning of the experiment's tags, followed by the key of the view."""

STUDIES = "studies"
"""Key of the view that compares studies."""

_NAME_WIDTH = 310
"""Of the column of names, in pixels."""

CURVE = "certified_accuracy"
"""Metric whose steps are radii in thousandths."""

RADIUS = "radius"
"""Metric with the radius of each step of the curve: the axis of the chart."""

LISTED = "rspipe.listed"
"""Tag of the classifiers that tables list: of ensembles of the same kind those of the first seeds alone, and nothing
superseded."""


def accuracy_name(radius: float) -> str:
    """Return the metric of certified accuracy at a radius of the tables; a heading has room for 14 characters."""
    return f"CA/{radius:.2f}"


def study_acr_name(sigma: float, what: str) -> str:
    """Return the metric of the run of a study with the ACR of something at a noise level."""
    return f"acr_{sigma:g}/{what}"


def _column(kind: str, name: str) -> str:
    return f"{kind}.`{name}`"


def _view(where: str, by: str, columns: Sequence[str], **more: Any) -> dict[str, Any]:
    """Return a view of the runs that a search finds, the largest of a column first."""
    name = _column("attributes", "Run Name")
    return {
        "searchFilter": where,
        "orderByKey": by,
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": [*columns],
        # Widths are those of columns that are in order.
        "columnOrder": [name, *columns],
        "columnWidths": {name: _NAME_WIDTH},
        "runsHiddenMode": "FIRST_10_RUNS",
        "hideEmptyCharts": True,
        **more,
    }


def classifiers_view(study: StudyConfig, parent: str) -> dict[str, Any]:
    """Return the view of the classifiers that tables list: by ACR, and as curves over the radius."""
    decided = study.certify.rule.name == "decide"
    cap = radius_cap(sigma=max(study.sigmas), n=study.certify.n, alpha=study.certify.alpha)
    radii = [_column("metrics", accuracy_name(radius)) for radius in study.radii if radius <= cap]
    acr = [] if decided else [_column("metrics", name) for name in ("acr", "acr_low", "acr_high")]
    section = "certified"
    curves = {
        "uuid": "curves",
        "type": "LINE",
        "metricKey": CURVE,
        "selectedMetricKeys": [CURVE],
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "xAxisKey": "metric",
        "selectedXAxisMetricKey": RADIUS,
        "useGlobalXaxisKey": False,
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "lineSmoothness": 0,
        "useGlobalLineSmoothing": True,
        "range": {},
        "displayName": "Certified accuracy by radius",
    }
    bars = {"uuid": "acr", "type": "BAR", "metricKey": "acr", "dataAccessKey": "acr", "displayName": "ACR"}
    shared = {"deleted": False, "isGenerated": False, "metricSectionId": section}
    return _view(
        f"tags.`mlflow.parentRunId` = '{parent}' and tags.`{LISTED}` = 'yes' and tags.`rspipe.stage` = 'certify'",
        radii[0] if decided else acr[0],
        [*acr, *radii, _column("tags", "rspipe.sigma"), _column("tags", "rspipe.method")],
        compareRunCharts=[{**chart, **shared} for chart in ((bars,) if decided else (curves, bars))],
        compareRunSections=[{"uuid": section, "name": "Certified", "display": True, "isReordered": False}],
        isAccordionReordered=True,
    )


def studies_view(study: StudyConfig) -> dict[str, Any]:
    """Return the view of all studies of the experiment, by the best ACR at the noise levels of this one."""
    best = [_column("metrics", study_acr_name(sigma, "best")) for sigma in study.sigmas]
    names = [_column("tags", f"rspipe.best_{sigma:g}") for sigma in study.sigmas]
    kinds = [_column("attributes", "Source"), _column("attributes", "Dataset")]
    return _view("tags.`rspipe.kind` = 'study'", best[0], [*best, *names, *kinds])
