"""The report of a study: one HTML page that needs nothing but a browser."""

import json
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files

from matplotlib.figure import Figure

from rspipe.attack_report import attack_part
from rspipe.certificates import radius_cap
from rspipe.claims import compare_with_published, judge_claims
from rspipe.ensemble_figures import ensemble_figures
from rspipe.ensemble_report import ensemble_parts
from rspipe.figures import (
    certified_accuracy_figure,
    cost_figure,
    ensemble_accuracy_figure,
    figure_svg,
    learning_curve_figure,
    search_figure,
    weights_figure,
)
from rspipe.findings import answers, best, warnings
from rspipe.membership import names_seeds
from rspipe.parts import Part
from rspipe.records import Difference, Summary
from rspipe.search_figures import search_figures
from rspipe.search_notes import search_note, search_notes
from rspipe.spec import DataSpec
from rspipe.summaries import QUESTIONS, Results, average_over_seeds, baseline_label
from rspipe.tables import (
    RULES,
    Table,
    claim_table,
    difference_table,
    duration,
    ensemble_table,
    method_table,
    model_table,
    published_table,
    quantity,
    result_table,
    search_table,
    seed_table,
    setting_table,
    trial_table,
)


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


def _element(tag: str, content: str, attributes: dict[str, str] | None = None) -> str:
    """Return an HTML element; `content` is HTML already, attribute values are text."""
    said = "".join(f' {name}="{escape(value)}"' for name, value in (attributes or {}).items() if value)
    return f"<{tag}{said}>{content}</{tag}>"


def _paragraph(text: str, *, style: str = "") -> str:
    return _element("p", escape(text), {"class": style})


def _list(items: Iterable[str]) -> str:
    return _element("ul", "".join(_element("li", escape(item)) for item in items))


def _details(title: str, content: str) -> str:
    return _element("details", _element("summary", escape(title)) + content)


def _table(table: Table, *, name: str = "") -> str:
    """Return a table as HTML; the column `name` is not broken into lines. The page's script sorts and copies."""
    if not table.rows:
        return ""
    styles = [
        " ".join(["num"] * numeric + ["name"] * (column == name))
        for column, numeric in zip(table.columns, table.numeric, strict=True)
    ]
    heads = zip(table.columns, styles, strict=True)
    head = "".join(_element("th", escape(column), {"scope": "col", "class": style}) for column, style in heads)
    rows = []
    for row in table.rows:
        cells = ""
        for cell, style in zip(row, styles, strict=True):
            value = "" if cell.value is None else repr(float(cell.value))
            cells += _element("td", escape(cell.text), {"class": f"{style} {cell.tone}".strip(), "data-value": value})
        rows.append(_element("tr", cells))
    content = _element("thead", _element("tr", head)) + _element("tbody", "\n".join(rows))
    scroll = _element("div", _element("table", content), {"class": "scroll"})
    return _element("div", _element("div", "", {"class": "tools"}) + scroll, {"class": "table"})


def _figures(figures: dict[str, Figure], *kinds: str) -> str:
    """Return the figures whose names begin with one of `kinds`, laid out beside each other."""
    shown = [
        _element("figure", figure_svg(figure, name=name.replace(".", "_")))
        for name, figure in figures.items()
        if name.startswith(kinds)
    ]
    return _element("div", "\n".join(shown), {"class": "figures"}) if shown else ""


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
        "models, ensembles": f"{len(results.models)}, {len(results.ensembles)}",
        "certified classifiers": f"{len(summaries)}",
    }
    pairs = "".join(
        _element("div", _element("dt", escape(name)) + _element("dd", escape(value))) for name, value in facts.items()
    )
    return _element("dl", pairs, {"class": "facts"})


def _findings(results: Results, summaries: Sequence[Summary], differences: Sequence[Difference]) -> str:
    if not summaries:
        return _paragraph("Nothing is certified yet, so there is nothing to conclude.")
    content = _list(best(summaries))
    for question, sentences in answers(differences).items():
        content += _element("h3", escape(question)) + _list(sentences)
    notes = []
    if differences:
        notes.append(
            f"The baseline is {baseline_label(results.study)}. Each of the {len(differences)} comparisons has its own "
            "95 % interval, not adjusted for their number: where nothing differs, about "
            f"{0.05 * len(differences):.1f} would still be called higher or lower."
        )
    notes.append("The intervals are over test images. They do not cover training again with other seeds.")
    return content + _paragraph(" ".join(notes), style="soft")


def _results(results: Results, summaries: Sequence[Summary]) -> str:
    if not summaries:
        return _paragraph("Nothing is certified yet.")
    content = _element("h3", "Methods, averaged over seeds") + _table(seed_table(average_over_seeds(results)))
    content += _paragraph(
        "The seeds' spread shows what training randomness alone does; the interval is over images.", style="soft"
    )
    certify = results.study.certify
    for sigma in sorted({summary.sigma for summary in summaries}):
        at = [summary for summary in summaries if summary.sigma == sigma]
        cap = radius_cap(sigma=sigma, n=certify.n, alpha=certify.alpha)
        content += _element("h3", f"Every classifier at σ = {sigma:g}") + _table(result_table(at), name="classifier")
        content += _paragraph(f"No radius can exceed σ Φ⁻¹(α^(1/n)) = {cap:.3f} here.", style="soft")
    return content + _paragraph(
        "ACR: average certified radius, wrong and abstained images count 0. CA(r): share of images classified "
        "correctly with a certified radius of at least r. Saturated: all n samples fell on one class. Two-sided ACR: "
        "by certificates that bound the runner-up's probability, too, not to be compared with others. Samples: of an "
        "image, on average. Training and passes (forward and backward, of one noisy image) are those of all members "
        "together.",
        style="soft",
    )


def _curves(figures: dict[str, Figure]) -> str:
    content = _figures(figures, "accuracy-")
    return content and content + _paragraph(
        "Bands: pointwise 95 % intervals (Wilson) over images; for a mean over seeds they are conservative. The upper "
        "axis gives the lower bound on p_A that a radius needs, so a curve is also the distribution of that bound.",
        style="soft",
    )


def _differences(differences: Sequence[Difference]) -> str:
    content = ""
    for question in QUESTIONS:
        asked = [difference for difference in differences if difference.question == question]
        if asked:
            content += _element("h3", escape(question)) + _table(difference_table(asked), name="first")
    if not content:
        return ""
    return content + _paragraph(
        f"Differences of ACR on the same images, with paired 95 % intervals (normal). {len(differences)} comparisons, "
        "not adjusted for their number.",
        style="soft",
    )


def _claims(results: Results) -> str:
    """What others have published or claimed; nothing where the study file names none."""
    content = ""
    if claims := judge_claims(results):
        content += _element("h3", "Claims") + _table(claim_table(claims), name="larger ACR")
        content += _paragraph(
            "Reproduced: the paired 95 % interval of the difference lies above 0; contradicted: below. Not "
            "significant: these images do not decide.",
            style="soft",
        )
    if published := compare_with_published(results):
        content += _element("h3", "Published results") + _table(published_table(published), name="entry")
        content += _paragraph(
            "The interval is for the ACR on all the images that the published one is over; that of the difference "
            "holds the spread of the published seeds, too. Neither knows how another training would have come out.",
            style="soft",
        )
    return content


def _cost(results: Results, figures: dict[str, Figure]) -> str:
    content = _figures(figures, "cost-")
    if not content:
        return ""
    note = "Bars: 95 % intervals over images. Open: uniform weights; filled: solved weights."
    if results.trials:
        spent, passes = (sum(getattr(trial, name) for trial in results.trials) for name in ("seconds", "passes"))
        note += (
            f" The search cost {duration(spent)} and {quantity(passes)} passes in {len(results.trials)} trials more, "
            "which the searched models' own training does not contain."
        )
    return content + _paragraph(note, style="soft")


def _ensembles(results: Results, figures: dict[str, Figure]) -> str:
    if not results.ensembles:
        return ""
    return (
        _table(ensemble_table(results.ensembles, results.models), name="ensemble")
        + _figures(figures, "weights-")
        + _paragraph(
            "Weights are chosen on the calibration images and are the same for every test image. esbrs_ratio: pooled "
            "mean margin over its standard deviation, larger is better. esbrs_paper: weighted variance of the margins, "
            "smaller is better. esbrs_acr and auto: ACR in units of σ if margins were Gaussian, larger is better. "
            "sween: log-loss under noise, smaller is better. Gap: how far, relatively, the solved program can be from "
            "its optimum; of sween in nats; of esbrs_acr how much the linearized objective could still rise: a local "
            "optimum.",
            style="soft",
        )
    )


def _part(part: Part, *, title: str = "") -> str:
    content = _element("h3", escape(title)) if title else ""
    content += _table(part.table, name="ensemble") + (_list(part.sentences) if part.sentences else "")
    return content + (_paragraph(part.note, style="soft") if part.note else "")


def _ensembling(results: Results, figures: dict[str, Figure]) -> str:
    sigmas = sorted({c.sigma for c in results.certified})
    parts = [(sigma, part) for sigma in sigmas for part in ensemble_parts(results, sigma=sigma)]
    content = "".join(_part(part, title=f"{part.title}, σ = {sigma:g}") for sigma, part in parts)
    return content + _figures(figures, "size-", "landscape-")


def _search(results: Results, figures: dict[str, Figure], differences: Sequence[Difference]) -> str:
    if not results.searches:
        return ""
    content = _table(search_table(results.searches), name="search") + _figures(figures, "search-")
    for search in results.searches:
        content += _details(f"Trials of {search.label}, σ = {search.sigma:g}", _table(trial_table(results, search)))
    return content + _list(search_notes(results, differences)) + _paragraph(search_note(results), style="soft")


def _training(results: Results, figures: dict[str, Figure]) -> str:
    if not results.models:
        return _paragraph("No model is trained yet.")
    return (
        _table(model_table(results.models), name="model")
        + _figures(figures, "training-")
        + _paragraph(
            "Accuracies in the table are those on the validation images; the curves show training batches, whose loss "
            "is not comparable between methods.",
            style="soft",
        )
    )


_RULES = {
    "fixed": "Rule fixed: every image gets n0 samples that select the class and n others that bound its probability.",
    "planned": "Rule planned: a pilot, apart from the samples that bound the probability, chooses their number, at "
    "most n. The claim is CERTIFY's at the same α; as far as the pilot can tell, at most eps σ of the radius is lost.",
    "radius_grid": "Rule radius_grid: counts are looked at again and again, each time with a share of α, until the "
    "answer at each radius of the grid is clear. Radii are proven at the grid alone.",
}


def _reading(results: Results, summaries: Sequence[Summary]) -> str:
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
    return _list(points)


def _parameters(results: Results) -> str:
    study = results.study.model_dump(mode="json")
    content = _element("h3", "Methods") + _table(method_table(results.study), name="parameter")
    shared = {key: study[key] for key in ("data", "certify", "weigh", "radii", "baseline")}
    content += _element("h3", "Data, weights, certification") + _table(setting_table(shared), name="parameter")
    content += _element("h3", "Environment")
    content += _table(setting_table(dict(results.environment)), name="parameter") or _paragraph("Not recorded.")
    text = json.dumps(study, indent=1, ensure_ascii=False)
    return content + _details("The whole study, resolved", _element("pre", escape(text)))


def render_report(results: Results, summaries: Sequence[Summary], differences: Sequence[Difference]) -> str:
    """Return the report as one HTML page without any outside reference; what is not there yet is left out."""
    study = results.study
    figures = report_figures(results, summaries)
    sections = {
        "Findings": _findings(results, summaries, differences),
        "Claims and published results": _claims(results),
        "Results": _results(results, summaries),
        "Certified accuracy": _curves(figures),
        "Paired differences": _differences(differences),
        "ACR against cost": _cost(results, figures),
        "Ensembles and weights": _ensembles(results, figures),
        "What ensembles give, and why": _ensembling(results, figures),
        "Attacks around certified images": _part(attacks) if (attacks := attack_part(results)) else "",
        "Search": _search(results, figures, differences),
        "Training": _training(results, figures),
        "How to read this; guarantees and limits": _reading(results, summaries),
        "Parameters and environment": _parameters(results),
    }
    shown = {title: content for title, content in sections.items() if content}
    title = study.title or study.name
    links = "".join(_element("a", escape(name), {"href": f"#part-{i}"}) for i, name in enumerate(shown))
    head = _element("h1", escape(title)) + _paragraph(f"Study {study.id}", style="soft")
    head += _facts(results, summaries) + _element("nav", links)
    body = "\n".join(
        _element("section", _element("h2", escape(name)) + content, {"id": f"part-{i}"})
        for i, (name, content) in enumerate(shown.items())
    )
    if known := warnings(results, summaries):
        box = _element("div", _paragraph("Before you read on:") + _list(known), {"class": "warning", "role": "note"})
        body = f"{box}\n{body}"
    foot = _paragraph("Made by rspipe. The page needs no network.")
    page = f"{_element('header', head)}\n{_element('main', body)}\n{_element('footer', foot)}"
    template = files("rspipe").joinpath("report.html").read_text(encoding="utf-8")
    before, _, rest = template.partition("<!--title-->")
    middle, _, after = rest.partition("<!--body-->")
    return f"{before}{escape(title)}{middle}{page}{after}"
