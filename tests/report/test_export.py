"""Facts about tables for papers: LaTeX prints what the table says, whatever the names are."""

import re

from rspipe.report.export import summary_latex
from rspipe.report.headline import headline
from rspipe.report.latex import latex, latex_text
from rspipe.report.tables import Cell, Table
from tests import results_builder as built

HOSTILE = r"50 % of a_b & c#d $x^2$ {e} ~f \input{/etc/passwd} <g> |h|"


def test_names_stay_text():
    written = latex_text(HOSTILE)
    assert written == (
        r"50 \% of a\_b \& c\#d \$x\textasciicircum{}2\$ \{e\} \textasciitilde{}f "
        r"\textbackslash{}input\{/etc/passwd\} \textless{}g\textgreater{} \textbar{}h\textbar{}"
    )
    # No sign that LaTeX reads is left without a backslash before it, but in the commands that print signs.
    commands = re.sub(r"\\text[a-z]+\{\}|\\[%&$#_{}]", "", written)
    assert not re.search(r"[\\%&$#_{}~^<>|]", commands)


def test_signs_of_our_tables_are_written_in_mathematics():
    assert latex_text("σ 0.5 ± 0.1, −0.2 – 3 × α") == r"$\sigma$ 0.5 $\pm$ 0.1, $-$0.2 -- 3 $\times$ $\alpha$"


def test_every_row_has_a_cell_per_column_and_groups_are_ruled_off():
    rows = [{"σ": Cell(sigma, float(sigma)), "method": Cell(HOSTILE), "ACR": Cell("[0.1]", 0.1)}
            for sigma in ("0.25", "0.25", "0.50")]  # fmt: skip
    lines = latex(Table.of(rows)).splitlines()
    assert lines[0] == r"\begin{tabular}{rlr}"
    assert lines[-1] == r"\end{tabular}"
    body = [line for line in lines if line.endswith(r"\\")]
    assert len(body) == 4
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {2}
    # After the head, and where sigma changes.
    assert [index for index, line in enumerate(lines) if line == r"\midrule"] == [3, 6]
    # A bracket after a line break would be read as its argument.
    assert all("& {}[0.1]" in line for line in body[1:])


def test_the_tables_of_a_study_hold_every_classifier_in_ascii():
    results = built.results()
    text = summary_latex(results)
    assert text.isascii()
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2
    for summary in results.summaries:
        assert latex_text(summary.name) in text
        assert f"{summary.acr.estimate:.3f}" in text
    assert text.count("{") == text.count("}")
    # The best of each noise level is bold, with its interval.
    for sigma in built.SIGMAS:
        best = headline(results).at(sigma)[0]
        name, acr = latex_text(best.entry.name), f"{best.acr.estimate:.3f} "
        assert re.search(rf"{sigma:.2f} & \\textbf{{{re.escape(name)}}} & \d+ & \\textbf{{{acr}", text)
