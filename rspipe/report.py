"""The report of a study: one HTML page that needs nothing but a browser."""

import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files

from matplotlib.figure import Figure

from rspipe.attack_report import attack_part
from rspipe.certificates import radius_cap
from rspipe.claims import compare_with_published, judge_claims
from rspipe.distribution import spread_figure, spread_table, spreads
from rspipe.ensemble_figures import ensemble_figures
from rspipe.ensemble_report import ensemble_parts
from rspipe.figures import (
    certified_accuracy_figure,
    cost_figure,
    ensemble_accuracy_figure,
    learning_curve_figure,
    search_figure,
    weights_figure,
)
from rspipe.findings import answers, best, warnings
from rspipe.membership import names_seeds
from rspipe.page import bullets, details, element, figure_grid, paragraph, table_html
from rspipe.pairwise import all_pairs, pair_figure, pair_note, pair_table
from rspipe.parts import Part
from rspipe.records import Difference, Summary
from rspipe.search_figures import search_figures
from rspipe.search_notes import search_note, search_notes
from rspipe.spec import DataSpec
from rspipe.summaries import QUESTIONS, Results, average_over_seeds, baseline_label
from rspipe.tables import (
    RULES,
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
    return bullets(best(summaries)) + _claims(results)


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


def _results(results: Results, summaries: Sequence[Summary]) -> str:
    if not summaries:
        return paragraph("Nothing is certified yet.")
    content = element("h3", "Methods, averaged over seeds") + table_html(seed_table(average_over_seeds(results)))
    content += paragraph(
        "The seeds' spread shows what training randomness alone does; the interval is over images.", style="soft"
    )
    certify = results.study.certify
    for sigma in sorted({summary.sigma for summary in summaries}):
        at = [summary for summary in summaries if summary.sigma == sigma]
        cap = radius_cap(sigma=sigma, n=certify.n, alpha=certify.alpha)
        content += element("h3", f"Every classifier at σ = {sigma:g}") + table_html(result_table(at), name="classifier")
        content += paragraph(f"No radius can exceed σ Φ⁻¹(α^(1/n)) = {cap:.3f} here.", style="soft")
    return content + paragraph(
        "ACR: average certified radius, wrong and abstained images count 0, with half the length of a bootstrap "
        "interval over images. CA(r): share of images classified correctly with a certified radius of at least r. "
        "Saturated: all n samples fell on one class. Two-sided ACR: by certificates that bound the runner-up's "
        "probability, too, not to be compared with others. Samples: of an image, on average. Training and passes "
        "(forward and backward, of one noisy image) are those of all members together.",
        style="soft",
    )


def _curves(figures: dict[str, Figure]) -> str:
    content = figure_grid(figures, "accuracy-")
    return content and content + paragraph(
        "Bands: pointwise 95 % intervals (Wilson) over images; for a mean over seeds they are conservative. The upper "
        "axis gives the lower bound on p_A that a radius needs, so a curve is also the distribution of that bound.",
        style="soft",
    )


def _differences(differences: Sequence[Difference]) -> str:
    content = ""
    for question in QUESTIONS:
        asked = [difference for difference in differences if difference.question == question]
        if asked:
            content += element("h3", escape(question)) + table_html(difference_table(asked), name="first")
    if not content:
        return ""
    return content + paragraph(
        f"Differences of ACR on the same images, with paired 95 % intervals (normal). {len(differences)} comparisons, "
        "not adjusted for their number.",
        style="soft",
    )


def _pairs(results: Results, summaries: Sequence[Summary], figures: dict[str, Figure]) -> str:
    sigmas = sorted({summary.sigma for summary in summaries})
    found = [pairs for sigma in sigmas if (pairs := all_pairs(results, summaries, sigma=sigma)) is not None]
    if not found:
        return ""
    content = element("h3", "All classifiers against each other") + figure_grid(figures, "pairs-")
    for pairs in found:
        title = f"All pairs at σ = {pairs.sigma:g}, on {pairs.images:,} images"
        content += details(title, table_html(pair_table(pairs), name="first"))
    return content + paragraph(pair_note(found), style="soft")


def _spread(results: Results, summaries: Sequence[Summary], figures: dict[str, Figure]) -> str:
    content = figure_grid(figures, "spread-")
    for sigma in sorted({summary.sigma for summary in summaries}):
        table = table_html(spread_table(spreads(results, sigma=sigma)), name="classifier")
        content += details(f"Shares of images at σ = {sigma:g}", table)
    return content and content + paragraph(
        "p_A: lower confidence bound on the probability of the predicted class under noise, of images that are "
        "classified correctly; averaged over seeds. Saturated: all n samples fell on that class, so that n, not the "
        "classifier, limits the radius. Two classifiers of one ACR need not be alike: one may prove large radii for "
        "some images and misclassify the others. ACR of saturated: the share of the ACR that saturated images bring.",
        style="soft",
    )


def _claims(results: Results) -> str:
    """What others have published or claimed; nothing where the study file names none."""
    content = ""
    if claims := judge_claims(results):
        content += element("h3", "Claims") + table_html(claim_table(claims), name="larger ACR")
        content += paragraph(
            "Reproduced: the paired 95 % interval of the difference lies above 0; contradicted: below. Not "
            "significant: these images do not decide.",
            style="soft",
        )
    if published := compare_with_published(results):
        content += element("h3", "Published results") + table_html(published_table(published), name="entry")
        content += paragraph(
            "The interval is for the ACR on all the images that the published one is over; that of the difference "
            "holds the spread of the published seeds, too. Neither knows how another training would have come out.",
            style="soft",
        )
    return content


def _cost(results: Results, figures: dict[str, Figure]) -> str:
    content = figure_grid(figures, "cost-")
    if not content:
        return ""
    note = "Bars: 95 % intervals over images. Open: uniform weights; filled: solved weights."
    if results.trials:
        spent, passes = (sum(getattr(trial, name) for trial in results.trials) for name in ("seconds", "passes"))
        note += (
            f" The search cost {duration(spent)} and {quantity(passes)} passes in {len(results.trials)} trials more, "
            "which the searched models' own training does not contain."
        )
    return content + paragraph(note, style="soft")


def _ensembles(results: Results, figures: dict[str, Figure]) -> str:
    if not results.ensembles:
        return ""
    return (
        table_html(ensemble_table(results.ensembles, results.models), name="ensemble")
        + figure_grid(figures, "weights-")
        + paragraph(
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
    content = element("h3", escape(title)) if title else ""
    content += table_html(part.table, name="ensemble") + (bullets(part.sentences) if part.sentences else "")
    return content + (paragraph(part.note, style="soft") if part.note else "")


def _ensembling(results: Results, figures: dict[str, Figure]) -> str:
    sigmas = sorted({c.sigma for c in results.certified})
    parts = [(sigma, part) for sigma in sigmas for part in ensemble_parts(results, sigma=sigma)]
    content = "".join(_part(part, title=f"{part.title}, σ = {sigma:g}") for sigma, part in parts)
    return content + figure_grid(figures, "size-", "landscape-")


def _search(results: Results, figures: dict[str, Figure], differences: Sequence[Difference]) -> str:
    if not results.searches:
        return ""
    content = table_html(search_table(results.searches), name="search") + figure_grid(figures, "search-")
    for search in results.searches:
        content += details(f"Trials of {search.label}, σ = {search.sigma:g}", table_html(trial_table(results, search)))
    return content + bullets(search_notes(results, differences)) + paragraph(search_note(results), style="soft")


def _training(results: Results, figures: dict[str, Figure]) -> str:
    if not results.models:
        return paragraph("No model is trained yet.")
    return (
        table_html(model_table(results.models), name="model")
        + figure_grid(figures, "training-")
        + paragraph(
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
    return bullets(points)


def _parameters(results: Results) -> str:
    study = results.study.model_dump(mode="json")
    content = element("h3", "Methods") + table_html(method_table(results.study), name="parameter")
    shared = {key: study[key] for key in ("data", "certify", "weigh", "radii", "baseline")}
    content += element("h3", "Data, weights, certification") + table_html(setting_table(shared), name="parameter")
    content += element("h3", "Environment")
    content += table_html(setting_table(dict(results.environment)), name="parameter") or paragraph("Not recorded.")
    text = json.dumps(study, indent=1, ensure_ascii=False)
    return content + details("The whole study, resolved", element("pre", escape(text)))


def render_report(results: Results, summaries: Sequence[Summary], differences: Sequence[Difference]) -> str:
    """Return the report as one HTML page without any outside reference; what is not there yet is left out."""
    study = results.study
    figures = report_figures(results, summaries)
    sections = {
        "Summary": _summary(results, summaries),
        "Findings": _findings(results, differences) if summaries else "",
        "Results": _results(results, summaries),
        "Certified accuracy": _curves(figures),
        "Where the ACR comes from": _spread(results, summaries, figures),
        "Paired differences": _differences(differences) + _pairs(results, summaries, figures),
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
    template = files("rspipe").joinpath("report.html").read_text(encoding="utf-8")
    before, _, rest = template.partition("<!--title-->")
    middle, _, after = rest.partition("<!--body-->")
    return f"{before}{escape(title)}{middle}{page}{after}"
