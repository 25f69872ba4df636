"""The report of a study: one HTML page that needs nothing but a browser."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import chain

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from rspipe.data.spec import DataSpec
from rspipe.report.caveats import caveats
from rspipe.report.results import Results
from rspipe.report.section import Section
from rspipe.report.sections import (
    accuracy,
    attacks,
    cascades,
    changes,
    claims,
    combinations,
    cost,
    differences,
    distribution,
    findings,
    landscapes,
    limits,
    noise,
    pairs,
    parameters,
    pruning,
    reading,
    results,
    search,
    sensitivity,
    sizes,
    summary,
    training,
    trials,
    weights,
)
from rspipe.spec import choice_text

CHAPTERS: Mapping[str, Sequence[Callable[[Results], Section | None]]] = {
    "Summary": (summary.section, claims.section),
    "Findings": (findings.section,),
    "Results": (results.section,),
    "Certified accuracy": (accuracy.section,),
    "Cascades over noise levels": (cascades.section,),
    "Where the ACR comes from": (distribution.section,),
    "Paired differences": (differences.section, pairs.section),
    "ACR against cost": (cost.section,),
    "Ensembles and weights": (weights.section,),
    "What ensembles give, and why": (
        combinations.section,
        noise.section,
        changes.section,
        sizes.section,
        limits.section,
        pruning.section,
        landscapes.section,
    ),
    "Attacks around certified images": (attacks.section,),
    "Search": (search.section, trials.section, sensitivity.section),
    "Training": (training.section,),
    "How to read this; guarantees and limits": (reading.section,),
    "Parameters and environment": (parameters.section,),
}
"""The sections of the page by chapter, in order."""

_OF_DECISIONS = (
    "Results",
    "Search",
    "Training",
    "How to read this; guarantees and limits",
    "Parameters and environment",
)
"""Chapters that need no ACR, and no radius but those that were asked for."""

RULES = {
    "fixed": "CERTIFY (Cohen et al. 2019)",
    "planned": "planned CERTIFY",
    "radius_grid": "radius grid",
    "decide": "decisions",
}
"""The rules in words, by name."""

Chapters = Mapping[str, Sequence[Section]]


def report_chapters(study_results: Results) -> Chapters:
    """Return the sections of the report by chapter; sections and chapters without content are left out."""
    wanted = _OF_DECISIONS if study_results.decided else CHAPTERS
    chapters = {
        title: [section for build in builders if (section := build(study_results)) is not None]
        for title, builders in CHAPTERS.items()
        if title in wanted
    }
    return {title: sections for title, sections in chapters.items() if sections}


def report_figures(chapters: Chapters) -> dict[str, Figure]:
    """Return every figure of the report by a name that serves as a file name."""
    figures: dict[str, Figure] = {}
    for section in chain.from_iterable(chapters.values()):
        figures |= section.figures
    return figures


def data_title(data: DataSpec) -> str:
    """Return the name of a data set."""
    return "Handwritten digits, 8×8 pixels (scikit-learn)" if data.name == "digits" else data.title


@cache
def _templates() -> Environment:
    """Return the templates of the page and of its sections; all text is escaped."""
    templates = Environment(
        loader=PackageLoader("rspipe.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "g": "{:g}".format,
        "thousands": "{:,}".format,
        "exact": lambda value: repr(float(value)),
    }
    return templates


def section_html(section: Section) -> Markup:
    """Return a section as HTML, by the template of its name."""
    template = _templates().get_template(f"sections/{section.name}.html")
    # Matplotlib escapes the text in its pictures.
    pictures = [(section.figures[name].get_figwidth() > 7, Markup(svg)) for name, svg in section.pictures.items()]
    return Markup(template.render(section.content, figures=pictures))


def render_report(study_results: Results, chapters: Chapters) -> str:
    """Return the report as one HTML page without any outside reference.

    Args:
        study_results: Of the study.
        chapters: Its `report_chapters`.
    """
    images = [one.images for one in study_results.summaries]
    page = _templates().get_template("page.html")
    return page.render(
        study=study_results.study,
        data=data_title(study_results.study.data),
        chosen=choice_text(study_results.study.certify.images),
        rule=RULES[study_results.study.certify.rule.name],
        images=dict.fromkeys((min(images), max(images))) if images else (),
        classifiers=len(study_results.summaries),
        models=len(study_results.models),
        ensembles=len(study_results.ensembles),
        cascades=len(study_results.cascades),
        caveats=caveats(study_results),
        chapters={title: [section_html(section) for section in sections] for title, sections in chapters.items()},
    )
