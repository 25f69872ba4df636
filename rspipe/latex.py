"""The tables of a study for a paper: LaTeX with the package booktabs."""

from collections.abc import Sequence

from rspipe.records import Summary
from rspipe.summaries import Results, average_over_seeds
from rspipe.tables import Table, result_table, seed_table

_SPECIAL = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "σ": r"$\sigma$",
    "α": r"$\alpha$",
    "±": r"$\pm$",
    "−": r"$-$",
    "×": r"$\times$",
    "–": "--",
}
_SIGNS = str.maketrans(_SPECIAL)
_SHOWN = ("σ", "classifier", "abstained")
_SEEDS = ("σ", "method", "seeds", "mean ACR ± 95 %", "lowest seed", "highest seed")


def latex_text(text: str) -> str:
    """Return text that LaTeX prints as it is."""
    return text.translate(_SIGNS)


def latex(table: Table, *, columns: Sequence[str] | None = None) -> str:
    """Return a table as a LaTeX tabular in the style of booktabs; a rule where the first column changes from σ to σ.

    Args:
        table: Any table.
        columns: Those to show; all by default.
    """
    shown = [index for index, name in enumerate(table.columns) if columns is None or name in columns]
    grouped = bool(shown) and table.columns[shown[0]] == "σ"
    lines, before = [], None
    for row in table.rows:
        cells = [row[index].text for index in shown]
        if grouped and before not in (None, cells[0]):
            lines.append(r"\midrule")
        before = cells[0]
        lines.append(_row(cells))
    aligned = "".join("r" if table.numeric[index] else "l" for index in shown)
    head = [
        rf"\begin{{tabular}}{{{aligned}}}",
        r"\toprule",
        _row([table.columns[index] for index in shown]),
        r"\midrule",
    ]
    return "\n".join([*head, *lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _row(cells: Sequence[str]) -> str:
    # A bracket after a line break would be read as its argument.
    return " & ".join("{}" + text if text.startswith("[") else text for text in map(latex_text, cells)) + r" \\"


def summary_latex(results: Results, summaries: Sequence[Summary]) -> str:
    """Return the result tables of a study: methods averaged over seeds, then every classifier.

    Radii that no classifier reaches are left out.
    """
    certify = results.study.certify
    every = result_table(summaries)
    wanted = [name for name in every.columns if name in _SHOWN or name.startswith(("ACR", "CA("))]
    told = (
        f"study {results.study.id}, rule {certify.rule.name}, n0 = {certify.n0}, n = {certify.n}, "
        f"alpha = {certify.alpha:g}, {certify.precision}"
    )
    tables = (latex(seed_table(average_over_seeds(results)), columns=_SEEDS), latex(every, columns=wanted))
    return "\n".join([f"% {told}. Needs \\usepackage{{booktabs}}.", *tables])
