"""The report of a study: one HTML page that needs nothing but a browser."""

from collections.abc import Sequence
from html import escape
from importlib.resources import files

from matplotlib.figure import Figure

from rspipe.data.spec import DataSpec
from rspipe.ensembles.members import names_seeds
from rspipe.report.differences import Difference, differences_part
from rspipe.report.page import bullets, element, paragraph, part_of
from rspipe.report.results import Results, baseline_label
from rspipe.report.sections.attacks import attack_part
from rspipe.report.sections.claims import claims_part
from rspipe.report.sections.distribution import spread_figure, spread_part
from rspipe.report.sections.ensemble_figures import ensemble_figures
from rspipe.report.sections.ensembles import ensembles_part, ensembling_part, weights_figure
from rspipe.report.sections.findings import answers, best, warnings
from rspipe.report.sections.pairs import all_pairs, pair_figure, pairs_part
from rspipe.report.sections.parameters import RULES, parameters_part, reading_part
from rspipe.report.sections.results import (
    certified_accuracy_figure,
    cost_figure,
    cost_part,
    curves_part,
    ensemble_accuracy_figure,
    results_part,
)
from rspipe.report.sections.search import search_figure, search_part
from rspipe.report.sections.search_figures import search_figures
from rspipe.report.sections.training import learning_curve_figure, training_part
from rspipe.report.summaries import Summary


def data_title(data: DataSpec) -> str:
    """Return the name of a data set."""
    if data.name == "digits":
        return "Handwritten digits, 8×8 pixels (scikit-learn)"
    return data.title


def report_figures(results: Results, summaries: Sequence[Summary]) -> dict[str, Figure]:
    """Return every figure of the report by a name that serves as a file name; those without data are left out."""
    figures: dict[str, Figure | None] = {}
    for sigma in sorted({*results.study.sigmas, *(c.sigma for c in results.certified)}):
        at = f"sigma-{sigma:g}"
        if any(summary.sigma == sigma for summary in summaries):
            figures[f"accuracy-models-{at}"] = certified_accuracy_figure(results, sigma=sigma)
            figures[f"spread-{at}"] = spread_figure(results, sigma=sigma)
            pairs = all_pairs(results, summaries, sigma=sigma)
            figures[f"pairs-{at}"] = None if pairs is None else pair_figure(pairs)
            figures[f"accuracy-ensembles-{at}"] = ensemble_accuracy_figure(results, sigma=sigma)
            named = [summary for summary in summaries if not names_seeds(summary.label)]
            figures[f"cost-time-{at}"] = cost_figure(named, sigma=sigma)
            figures[f"cost-passes-{at}"] = cost_figure(named, sigma=sigma, cost="passes")
        figures[f"weights-{at}"] = weights_figure(results, sigma=sigma)
        for what in ("loss", "noisy_accuracy", "validation_acr"):
            figures[f"training-{what}-{at}"] = learning_curve_figure(results, sigma=sigma, measure=what)
    for index, search in enumerate(results.searches):
        figures[f"search-{index}"] = search_figure(results.trials, search)
    figures |= ensemble_figures(results)
    figures |= search_figures(results)
    return {name: figure for name, figure in figures.items() if figure is not None}


def _facts(results: Results, summaries: Sequence[Summary]) -> str:
    study, certify = results.study, results.study.certify
    images = sorted({summary.images for summary in summaries})
    facts = {
        "data": data_title(study.data),
        "noise levels σ": ", ".join(f"{sigma:g}" for sigma in study.sigmas),
        "test images": " to ".join(f"{count:,}" for count in dict.fromkeys((images[0], images[-1]))) if images else "–",
        "n0 + n": f"{certify.n0:,} + {certify.n:,}",
        "α": f"{certify.alpha:g}",
        "rule": RULES[certify.rule.name],
        "precision": certify.precision,
        "certified": f"{len(summaries)} ({len(results.models)} models, {len(results.ensembles)} ensembles)",
    }
    pairs = "".join(
        element("div", element("dt", escape(name)) + element("dd", escape(value))) for name, value in facts.items()
    )
    return element("dl", pairs, {"class": "facts"})


def _summary(results: Results, summaries: Sequence[Summary]) -> str:
    if not summaries:
        return paragraph("Nothing is certified yet, so there is nothing to conclude.")
    return bullets(best(summaries)) + claims_part(results)


def _findings(results: Results, differences: Sequence[Difference]) -> str:
    content = ""
    for question, sentences in answers(differences).items():
        content += element("h3", escape(question)) + bullets(sentences)
    notes = []
    if differences:
        notes.append(
            f"The baseline is {baseline_label(results.study)}. Each of the {len(differences)} comparisons has its own "
            "95 % interval, not adjusted for their number: where nothing differs, about "
            f"{0.05 * len(differences):.1f} would still be called higher or lower."
        )
    notes.append("The intervals are over test images. They do not cover training again with other seeds.")
    return content + paragraph(" ".join(notes), style="soft")


def render_report(results: Results, summaries: Sequence[Summary], differences: Sequence[Difference]) -> str:
    """Return the report as one HTML page without any outside reference; what is not there yet is left out."""
    study = results.study
    figures = report_figures(results, summaries)
    sections = {
        "Summary": _summary(results, summaries),
        "Findings": _findings(results, differences) if summaries else "",
        "Results": results_part(results, summaries),
        "Certified accuracy": curves_part(figures),
        "Where the ACR comes from": spread_part(results, summaries, figures),
        "Paired differences": differences_part(differences) + pairs_part(results, summaries, figures),
        "ACR against cost": cost_part(results, figures),
        "Ensembles and weights": ensembles_part(results, figures),
        "What ensembles give, and why": ensembling_part(results, figures),
        "Attacks around certified images": part_of(attacks) if (attacks := attack_part(results)) else "",
        "Search": search_part(results, figures, differences),
        "Training": training_part(results, figures),
        "How to read this; guarantees and limits": reading_part(results, summaries),
        "Parameters and environment": parameters_part(results),
    }
    shown = {title: content for title, content in sections.items() if content}
    title = study.title or study.name
    links = "".join(element("a", escape(name), {"href": f"#part-{i}"}) for i, name in enumerate(shown))
    head = element("h1", escape(title)) + paragraph(f"Study {study.id}", style="soft")
    head += _facts(results, summaries) + element("nav", links)
    body = "\n".join(
        element("section", element("h2", escape(name)) + content, {"id": f"part-{i}"})
        for i, (name, content) in enumerate(shown.items())
    )
    if known := warnings(results, summaries):
        box = element("div", paragraph("Before you read on:") + bullets(known), {"class": "warning", "role": "note"})
        body = f"{box}\n{body}"
    foot = paragraph("Made by rspipe. The page needs no network.")
    page = f"{element('header', head)}\n{element('main', body)}\n{element('footer', foot)}"
    template = files("rspipe.report").joinpath("report.html").read_text(encoding="utf-8")
    before, _, rest = template.partition("<!--title-->")
    middle, _, after = rest.partition("<!--body-->")
    return f"{before}{escape(title)}{middle}{page}{after}"
