"""Pieces of an HTML page: text is escaped here, and what is passed on as content is HTML already."""

from collections.abc import Iterable
from html import escape

from matplotlib.figure import Figure

from rspipe.report.figures import figure_svg
from rspipe.report.tables import Part, Table


def element(tag: str, content: str, attributes: dict[str, str] | None = None) -> str:
    """Return an HTML element; `content` is HTML already, attribute values are text."""
    said = "".join(f' {name}="{escape(value)}"' for name, value in (attributes or {}).items() if value)
    return f"<{tag}{said}>{content}</{tag}>"


def paragraph(text: str, *, style: str = "") -> str:
    return element("p", escape(text), {"class": style})


def bullets(items: Iterable[str]) -> str:
    return element("ul", "".join(element("li", escape(item)) for item in items))


def details(title: str, content: str) -> str:
    return element("details", element("summary", escape(title)) + content)


def table_html(table: Table, *, name: str = "") -> str:
    """Return a table as HTML; the column `name` is not broken into lines. The page's script sorts and copies."""
    if not table.rows:
        return ""
    styles = [
        " ".join(["num"] * numeric + ["name"] * (column == name))
        for column, numeric in zip(table.columns, table.numeric, strict=True)
    ]
    heads = zip(table.columns, styles, strict=True)
    head = "".join(element("th", escape(column), {"scope": "col", "class": style}) for column, style in heads)
    rows = []
    for row in table.rows:
        cells = ""
        for cell, style in zip(row, styles, strict=True):
            value = "" if cell.value is None else repr(float(cell.value))
            cells += element("td", escape(cell.text), {"class": f"{style} {cell.tone}".strip(), "data-value": value})
        rows.append(element("tr", cells))
    content = element("thead", element("tr", head)) + element("tbody", "\n".join(rows))
    scroll = element("div", element("table", content), {"class": "scroll"})
    return element("div", element("div", "", {"class": "tools"}) + scroll, {"class": "table"})


def figure_grid(figures: dict[str, Figure], *kinds: str, wide: float = 7.0) -> str:
    """Return the figures whose names begin with one of `kinds`, laid out beside each other.

    One that is wider than `wide` inches has a line to itself.
    """
    shown = [
        element(
            "figure",
            figure_svg(figure, name=name.replace(".", "_")),
            {"class": "wide" if figure.get_figwidth() > wide else ""},
        )
        for name, figure in figures.items()
        if name.startswith(kinds)
    ]
    return element("div", "\n".join(shown), {"class": "figures"}) if shown else ""


def part_of(part: Part, *, title: str = "") -> str:
    content = element("h3", escape(title)) if title else ""
    content += table_html(part.table, name="ensemble") + (bullets(part.sentences) if part.sentences else "")
    return content + (paragraph(part.note, style="soft") if part.note else "")
