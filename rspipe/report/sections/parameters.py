"""Section: the settings of the study, of its methods and of its rule."""

import json
from collections.abc import Sequence
from html import escape
from typing import Any

from rspipe.report.page import bullets, details, element, paragraph, table_html
from rspipe.report.results import Results
from rspipe.report.summaries import Summary
from rspipe.report.tables import Cell, Table, flattened
from rspipe.study.config import StudyConfig

RULES = {"fixed": "CERTIFY (Cohen et al. 2019)", "planned": "planned CERTIFY", "radius_grid": "radius grid"}
"""The rules in words, by name."""


def setting_table(content: dict[str, Any]) -> Table:
    """Return nested JSON-like content as rows of a dotted name and a value."""
    return Table.of({"parameter": Cell(key), "value": Cell(value)} for key, value in flattened(content).items())


def method_table(study: StudyConfig) -> Table:
    """Return every parameter of every entry that trains models: one row each, one column per entry."""
    entries = {
        f"{group.label}, σ {', '.join(f'{sigma:g}' for sigma in group.sigma)}": flattened(group.model_dump(mode="json"))
        for group in study.groups
    }
    names = dict.fromkeys(name for entry in entries.values() for name in entry if name not in ("label", "sigma"))
    ordered = sorted(names, key=lambda name: name.startswith("space."))
    return Table.of(
        {"parameter": Cell(name)} | {head: Cell(entry.get(name, "–")) for head, entry in entries.items()}
        for name in ordered
    )


_RULES = {
    "fixed": "Rule fixed: every image gets n0 samples that select the class and n others that bound its probability.",
    "planned": "Rule planned: a pilot, apart from the samples that bound the probability, chooses their number, at "
    "most n. The claim is CERTIFY's at the same α; as far as the pilot can tell, at most eps σ of the radius is lost.",
    "radius_grid": "Rule radius_grid: counts are looked at again and again, each time with a share of α, until the "
    "answer at each radius of the grid is clear. Radii are proven at the grid alone.",
}


def reading_part(results: Results, summaries: Sequence[Summary]) -> str:
    certify = results.study.certify
    images = max((summary.images for summary in summaries), default=0)
    seeds = sorted({len(group.seeds) for group in results.study.groups})
    expected = f" (at most {certify.alpha * images:.3g} of {images:,} images on average)" if images else ""
    points = [
        f"A certificate says: with probability at least 1 − α = {1 - certify.alpha:g} over the noise samples, the "
        "smoothed classifier's prediction does not change within the radius. This failure probability is per image "
        f"and classifier{expected}.",
        _RULES[certify.rule.name],
        "Radii are L2 distances in pixel units, pixels in [0, 1]. The certificate is for the smoothed classifier, "
        "with the forward pass computed as it was here; it says nothing about the base classifier alone.",
        "An ensemble is one base classifier: its weights were frozen before the test images, and its certificate is as "
        "good as a single model's.",
        "All classifiers of a noise level saw the same noise on the same images, so differences are paired.",
        "Intervals treat the test images as a sample of images like them. "
        + (
            f"There are {' to '.join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))} training seeds per entry; "
            "a difference that is significant over images can be an accident of these seeds."
        ),
        "Weights, the search and every other choice used training, validation and calibration images only.",
    ]
    if results.study.data.name == "digits":
        points.append(
            "The digits are a small and easy data set of 8×8 images. They show that every step works; how methods rank "
            "here says little of how they rank on larger images."
        )
    return bullets(points)


def parameters_part(results: Results) -> str:
    study = results.study.model_dump(mode="json")
    content = element("h3", "Methods") + table_html(method_table(results.study), name="parameter")
    shared = {key: study[key] for key in ("data", "certify", "weigh", "radii", "baseline")}
    content += element("h3", "Data, weights, certification") + table_html(setting_table(shared), name="parameter")
    content += element("h3", "Environment")
    content += table_html(setting_table(dict(results.environment)), name="parameter") or paragraph("Not recorded.")
    text = json.dumps(study, indent=1, ensure_ascii=False)
    return content + details("The whole study, resolved", element("pre", escape(text)))
