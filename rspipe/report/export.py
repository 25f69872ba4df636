"""Results as files for elsewhere: TSV, Markdown, LaTeX."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from rspipe.report.headline import headline, headline_table
from rspipe.report.latex import latex, latex_text
from rspipe.report.published import compare_with_published
from rspipe.report.results import Results
from rspipe.report.sections.claims import claim_table, judge_claims, published_table
from rspipe.report.sections.results import choice_table, result_table, seed_table
from rspipe.report.summaries import Summary
from rspipe.report.tables import Cell, Table, estimate_cell, markdown, markdown_text, number_cell, percent_cell
from rspipe.smoothing.derivation import CertifiedClassifier
from rspipe.smoothing.metrics import acr_by_rule, certified_accuracy


def derived_table(rows: Mapping[str, CertifiedClassifier], *, radii: Sequence[float], with_radius: bool) -> Table:
    """Return one row per classifier with the metrics of certificates that were derived from its counts."""

    def row(name: str, one: CertifiedClassifier) -> dict[str, Cell]:
        shown = radii if with_radius else [0.0]
        abstained = float(np.mean((one.prediction < 0) & ~one.stopped))
        acr = acr_by_rule(one.radius, one.correct, rule=one.rule)
        accuracy = zip(shown, certified_accuracy(one.radius, one.correct, shown), strict=True)
        return {
            "classifier": Cell(name),
            **({"ACR ± 95 %": estimate_cell(acr)} if with_radius and not np.isnan(acr.estimate) else {}),
            **{
                f"CA({radius:g})" if with_radius else "accuracy": number_cell(float(share))
                for radius, share in accuracy
            },
            **({} if one.rule == "decide" else {"abstained": percent_cell(abstained)}),
            "images": number_cell(one.example.size, digits=0),
        }

    return Table.of(row(name, one) for name, one in rows.items())


_PACKAGES = ("python", "rspipe", "torch", "numpy", "scipy", "ray", "cvxpy")
"""Of the environment, those that the numbers depend on."""


def computed_on(environment: Mapping[str, str]) -> str:
    """Return in a sentence which machine and packages numbers come from: another kind of CPU can change a verdict."""
    known = {name: value for name, value in environment.items() if value not in ("", "none", "absent")}
    machine = ", ".join(known[name] for name in ("cpu", "cpu_capability", "gpu") if name in known)
    packages = ", ".join(f"{name} {known[name]}" for name in _PACKAGES if name in known)
    driver = f"{machine} (the driver's)" if machine else "an unknown machine"
    return f"Computed on {driver}, with {packages or 'unknown packages'}."


def summary_markdown(results: Results) -> str:
    """Return a study's tables as Markdown: claims, published results, means over seeds, the classifiers."""
    certify = results.study.certify
    images = ", ".join(dict.fromkeys(f"{summary.images}" for summary in results.summaries))
    head = (
        f"{markdown_text(results.study.title or results.study.name)}: rule {certify.rule.name}, n0 = {certify.n0}, "
        f"n = {certify.n:,}, α = {certify.alpha:g}, {certify.precision}"
    )
    tables = (
        claim_table(judge_claims(results)),
        published_table(compare_with_published(results)),
        seed_table(results.seed_averages),
        choice_table(results),
        result_table(results.listed),
    )
    shown = [markdown(table) for table in tables if table.rows] + [f"{computed_on(results.environment)}\n"]
    note = (
        f"Intervals and verdicts say what they are about. These models: the networks trained here, on "
        f"{results.images_meant}. These procedures: trained again with other seeds, on {results.images_meant}."
    )
    return "\n".join([f"{head}, {images} test images, study {results.study.id}\n", f"{note}\n", *shown])


_PLAIN = ("id", "label", "kind", "seed", "sigma", "images")

_ACR = ("acr", "acr_low", "acr_high", "acr_two_sided", "accuracy", "abstained", "saturated")

_ORIGIN = ("rule", "samples", "training_seconds", "passes", "weighting", "average", "members", "weights")


def summary_tsv(summaries: Sequence[Summary], *, delimiter: Literal["\t", ","] = "\t") -> str:
    """Return summaries as separated values in full precision, one row per classifier; lists hold commas."""
    radii = list(dict.fromkeys(radius for summary in summaries for radius in summary.radii))
    text = io.StringIO()
    columns = [*_PLAIN, *_ACR, *(f"certified_accuracy_{radius:g}" for radius in radii), *_ORIGIN]
    writer = csv.DictWriter(text, columns, delimiter=delimiter, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for summary in summaries:
        shares = zip(summary.radii, summary.certified_accuracy, strict=True)
        special = {
            "acr": summary.acr.estimate,
            "acr_low": summary.acr.low,
            "acr_high": summary.acr.high,
            **{f"certified_accuracy_{radius:g}": share for radius, share in shares},
            "members": ",".join(summary.members),
            "weights": ",".join(map(repr, summary.weights)),
        }
        cells = summary.to_json() | special
        writer.writerow({name: _no_formula(value) for name, value in cells.items()})
    return text.getvalue()


def _no_formula(value: Any) -> Any:
    """Return a cell that no spreadsheet takes for a formula: texts that begin like one get an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


_SHOWN = ("σ", "classifier", "abstained")

_ALL = 1_000_000
"""Rows, which are all."""


def summary_latex(results: Results) -> str:
    """Return the tables of a study: methods and ensembles with the best in bold, then every classifier.

    Radii that no classifier reaches are left out.
    """
    certify = results.study.certify
    every = result_table(results.listed)
    wanted = [name for name in every.columns if name in _SHOWN or name.startswith(("ACR", "CA("))]
    terms = (
        f"study {results.study.id}, rule {certify.rule.name}, n0 = {certify.n0}, n = {certify.n}, "
        f"alpha = {certify.alpha:g}, {certify.precision}"
    )
    whole = headline(results, most=_ALL)
    tables = (latex(headline_table(whole)), latex(every, columns=wanted))
    notes = [f"% {latex_text(note)}." for note in whole.notes]
    return "\n".join([f"% {terms}. Needs \\usepackage{{booktabs}}.", *notes, *tables])
