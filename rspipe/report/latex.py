"""Tables as LaTeX, in the style of booktabs."""

from collections.abc import Sequence

from rspipe.report.tables import Cell, Table

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
    "·": r"$\cdot$",
    "†": r"$^\dagger$",
}

_SIGNS = str.maketrans(_SPECIAL)


def latex_text(text: str) -> str:
    """Return text that LaTeX prints as it is."""
    return text.translate(_SIGNS)


def latex(table: Table, *, columns: Sequence[str] | None = None) -> str:
    """Return a table as a LaTeX tabular in the style of booktabs, strong cells bold; a rule between noise levels.

    Args:
        table: Any table.
        columns: Those to show; all by default.
    """
    shown = [index for index, name in enumerate(table.columns) if columns is None or name in columns]
    grouped = bool(shown) and table.columns[shown[0]] == "σ"
    lines, before = [], None
    for row in table.rows:
        cells = [row[index] for index in shown]
        if grouped and before not in (None, cells[0].text):
            lines.append(r"\midrule")
        before = cells[0].text if cells else None
        lines.append(_row(cells))
    aligned = "".join("r" if table.numeric[index] else "l" for index in shown)
    head = [
        rf"\begin{{tabular}}{{{aligned}}}",
        r"\toprule",
        _row([Cell(table.columns[index]) for index in shown]),
        r"\midrule",
    ]
    return "\n".join([*head, *lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _row(cells: Sequence[Cell]) -> str:
    texts = [rf"\textbf{{{latex_text(one.text)}}}" if one.tone == "strong" else latex_text(one.text) for one in cells]
    # A bracket after a line break would be read as its argument.
    return " & ".join("{}" + text if text.startswith("[") else text for text in texts) + r" \\"
