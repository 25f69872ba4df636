"""The report of a study: one HTML page that needs nothing but a browser."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from rspipe.data.spec import DataSpec
from rspipe.report.caveats import caveats
from rspipe.report.figures import description, themed
from rspipe.report.results import Results
from rspipe.report.section import Section
from rspipe.report.sections import (
    accuracy,
    attacks,
    budget,
    cascades,
    changes,
    claims,
    combinations,
    cost,
    differences,
    distribution,
    findings,
    headline,
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
    training,
    trials,
    weights,
)
from rspipe.spec import choice_text


@dataclass(frozen=True)
class Part:
    """A part of the page: sections under one heading."""

    builders: tuple[Callable[[Results], Section | None], ...]
    printed: bool = False
    """Whether it is on paper, too."""
    of_decisions: bool = False
    """Whether it needs no ACR, and no radius but those asked for: rule decide gives neither."""


MESSAGE = "Message"
"""The first part, which has no heading and is never folded."""

PARTS: Mapping[str, Part] = {
    MESSAGE: Part((headline.section,), printed=True, of_decisions=True),
    "Claims and published results": Part((claims.section,), printed=True),
    "Answers, from paired differences": Part((findings.section,), printed=True),
    "All results": Part((results.section,), printed=True, of_decisions=True),
    "Certified accuracy": Part((accuracy.section,), printed=True),
    "Cascades over noise levels": Part((cascades.section,)),
    "Budget and hard images": Part((budget.section, distribution.section), printed=True),
    "The differences in full": Part((differences.section,)),
    "ACR against cost": Part((cost.section,), printed=True),
    "Ensembles and weights": Part((weights.section,)),
    "What ensembles give, and why": Part(
        (
            combinations.section,
            noise.section,
            changes.section,
            sizes.section,
            limits.section,
            pruning.section,
            landscapes.section,
        )
    ),
    "Attacks around certified images": Part((attacks.section,)),
    "Search": Part((search.section, trials.section, sensitivity.section), of_decisions=True),
    "Training": Part((training.section,), of_decisions=True),
    "How to read this; guarantees and limits": Part((reading.section,), printed=True, of_decisions=True),
    "Parameters and environment": Part((parameters.section,), of_decisions=True),
}
"""The parts of the page by title, in order."""

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
    chapters = {
        title: [section for build in part.builders if (section := build(study_results)) is not None]
        for title, part in PARTS.items()
        if part.of_decisions or not study_results.decided
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
    templates.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
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
    pictures = [(description(section.figures[name]), Markup(themed(svg))) for name, svg in section.pictures.items()]
    return Markup(template.render(section.content, figures=pictures))


def _facts(study_results: Results) -> list[str]:
    """Return what was certified, and how, in short phrases."""
    study, certify = study_results.study, study_results.study.certify
    images = [one.images for one in study_results.summaries]
    span = " to ".join(dict.fromkeys(f"{count:,}" for count in (min(images), max(images)))) if images else "no"
    kinds = {"models": study_results.models, "ensembles": study_results.ensembles, "cascades": study_results.cascades}
    return [
        data_title(study.data),
        f"σ = {', '.join(f'{sigma:g}' for sigma in study.sigmas)}",
        f"{span} test images ({choice_text(certify.images)})",
        f"{RULES[certify.rule.name]}, n0 + n = {certify.n0:,} + {certify.n:,}, α = {certify.alpha:g}",
        certify.precision,
        ", ".join(f"{len(records)} {kind}" for kind, records in kinds.items() if records) or "nothing trained",
        f"study {study.id}",
    ]


def render_report(study_results: Results, chapters: Chapters, *, with_pairs: bool = False) -> str:
    """Return the report as one HTML page without any outside reference.

    Args:
        study_results: Of the study.
        chapters: Its `report_chapters`.
        with_pairs: Whether `render_pairs` lies beside it, to be linked.
    """
    (message,) = chapters[MESSAGE]
    parts = {
        title: {
            "printed": PARTS[title].printed,
            "finding": next((section.finding for section in sections if section.finding), ""),
            "sections": [section_html(section) for section in sections],
        }
        for title, sections in chapters.items()
        if title != MESSAGE
    }
    return (
        _templates()
        .get_template("page.html")
        .render(
            title=study_results.study.title or study_results.study.name,
            facts=_facts(study_results),
            message=section_html(message),
            caveats=caveats(study_results),
            parts=parts,
            pairs=with_pairs,
        )
    )


def render_pairs(study_results: Results) -> str | None:
    """Return every method and classifier against every other one as a page of its own; None without two."""
    section = pairs.section(study_results)
    if study_results.decided or section is None:
        return None
    study = study_results.study
    page = _templates().get_template("pairs.html")
    return page.render(title=study.title or study.name, study=study, section=section_html(section))
