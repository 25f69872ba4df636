"""The report in a real browser: no errors, no network, no scrolling sideways, readable in the dark and on paper."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rspipe.report.page import render_report, report_chapters
from rspipe.report.results import Results
from rspipe.report.standings import entries
from tests import results_builder as built
from tests.browser import browser, needs_browser

pytestmark = needs_browser
WIDTHS = {"desk": 1400, "phone": 390}


@pytest.fixture(scope="module")
def results() -> Results:
    return built.results(
        study=built.study(
            claims=[{"first": "advmacer", "second": "gaussian"}],
            published=[{"entry": "advmacer", "sigma": 0.25, "acr": 0.4, "source": "a paper"}],
        )
    )


@pytest.fixture(scope="module")
def page_file(results: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render_report(results, report_chapters(results)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def running() -> Iterator[Any]:
    with browser() as chromium:
        yield chromium


@pytest.fixture(scope="module", params=WIDTHS)
def window(request: pytest.FixtureRequest, running: Any) -> Iterator[tuple[Any, list[str]]]:
    """Open a window of a width, in which tests load the report: for each a new one would take longer than that."""
    context = running.new_context(viewport={"width": WIDTHS[request.param], "height": 900})
    page, troubles = context.new_page(), list[str]()
    page.on("console", lambda message: troubles.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: troubles.append(f"error: {error}"))
    page.on("request", lambda asked: asked.url.startswith("file:") or troubles.append(f"request: {asked.url}"))
    yield page, troubles
    context.close()


@pytest.fixture
def opened(page_file: Path, window: tuple[Any, list[str]]) -> tuple[Any, list[str]]:
    """Load the report at a width; return the page and what goes wrong or is asked of the network."""
    page, troubles = window
    page.emulate_media(color_scheme="light", media="screen")
    page.mouse.move(0, 0)
    troubles.clear()
    page.goto(page_file.as_uri())
    return page, troubles


def _unfolded(page: Any) -> Any:
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    return page


def test_the_report_renders_without_errors_and_without_the_network(opened: tuple[Any, list[str]]) -> None:
    page, troubles = opened
    assert _unfolded(page).locator("h2").count() >= 9
    assert page.locator("figure svg").count() >= 8
    # Each figure has a size, is no empty frame, and is described for those who do not see it.
    assert all(len(label) > 10 for label in page.locator("figure").evaluate_all("all => all.map(one => one.ariaLabel)"))
    for figure in page.locator("figure:visible").all():
        box = figure.locator("svg").bounding_box()
        assert box["width"] > 200
        assert box["height"] > 100
    assert troubles == []


def test_the_first_screen_of_a_desk_holds_sentences_table_and_curves(page_file: Path, running: Any) -> None:
    page = running.new_page(viewport={"width": 1400, "height": 900})
    page.goto(page_file.as_uri())
    for place in (".message p >> nth=2", ".message table", ".message figure svg"):
        box = page.locator(place).bounding_box()
        assert box["y"] + box["height"] <= 900
        assert box["x"] + box["width"] <= 1400
    # No column of the table is cut off.
    assert page.locator(".message .scroll").evaluate("part => part.scrollWidth - part.clientWidth") <= 0
    page.close()


def test_what_is_on_paper_are_twelve_pages_at_most(page_file: Path, running: Any) -> None:
    page = running.new_page()
    page.goto(page_file.as_uri())
    assert 2 <= len(re.findall(rb"/Type\s*/Page[^s]", page.pdf())) <= 12
    page.close()


def test_nothing_makes_the_page_scroll_sideways(opened: tuple[Any, list[str]]) -> None:
    page, _ = opened
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0


def test_parts_are_folded_and_open_by_a_click_or_an_address(opened: tuple[Any, list[str]]) -> None:
    page, _ = opened
    parts = page.locator("details.part")
    assert parts.count() >= 9
    assert page.locator("details[open]").count() == 0
    parts.first.locator("summary").first.click()
    assert parts.first.evaluate("part => part.open")
    page.evaluate("location.hash = 'part-2'")
    assert page.locator("details#part-2[open]").count() == 1


def test_a_click_on_a_head_sorts_a_table_by_its_numbers_and_a_second_one_turns_it(
    opened: tuple[Any, list[str]],
) -> None:
    page, troubles = opened
    table = _unfolded(page).locator("table", has=page.locator("th", has_text="passes of one")).first
    head = table.locator("th", has_text="passes of one")
    column = head.evaluate("head => head.cellIndex")

    def values() -> list[float]:
        return [
            float(row.locator("td").nth(column).get_attribute("data-value")) for row in table.locator("tbody tr").all()
        ]

    head.click()
    ascending = values()
    assert ascending == sorted(ascending)
    assert len(set(ascending)) > 1
    head.click()
    assert values() == ascending[::-1] or values() == sorted(ascending, reverse=True)
    assert head.get_attribute("aria-sort") == "descending"
    assert troubles == []


def test_a_table_is_copied_as_tab_separated_values(opened: tuple[Any, list[str]]) -> None:
    page, _ = opened
    page.evaluate("navigator.clipboard.writeText = text => { window.copied = text; return Promise.resolve(); }")
    table = page.locator(".table").first
    table.locator("button").click()
    lines = page.evaluate("window.copied").split("\n")
    assert len(lines) == table.locator("tr").count()
    assert {line.count("\t") for line in lines} == {table.locator("th").count() - 1}


CURVES = "details.part:has(.curves)"


def _curves(page: Any) -> Any:
    """Unfold the part with the curves; return the box that holds them."""
    page.locator(f"{CURVES} > summary").click()
    return page.locator(".curves")


def test_a_pointer_over_the_curves_reads_off_what_is_certified_there(
    opened: tuple[Any, list[str]], results: Results
) -> None:
    page, troubles = opened
    box = _curves(page)
    chart = box.locator(".chart svg")
    size = chart.bounding_box()
    chart.hover(position={"x": size["width"] / 3, "y": size["height"] / 3})
    radius = float(re.search(r"[0-9.]+", box.locator("th.at").text_content()).group())
    assert 0 < radius < 1
    shown = box.locator("tbody tr")
    assert shown.count() == len(entries(results, 0.25))
    for row, entry in zip(shown.all(), entries(results, 0.25), strict=True):
        name, acr, share, gain = (cell.text_content() for cell in row.locator("td").all())
        assert name == entry.name + " (baseline)" * (entry.name == results.baseline)
        assert float(acr) == pytest.approx(entry.acr, abs=5.1e-4)
        # The head rounds the radius to two decimals.
        ends = [entry.reaching(radius + side).acr for side in (0.005, -0.005)]
        assert ends[0] - 5.1e-4 <= float(share) <= ends[1] + 5.1e-4
        if gain != "–":
            first = next(one for one in entries(results, 0.25) if one.name == results.baseline)
            assert float(gain.replace("−", "-")) == pytest.approx(
                100 * (float(share) - first.reaching(radius).acr), abs=4
            )
    # No column is cut off.
    assert box.locator(".list").evaluate("part => part.scrollWidth - part.clientWidth") <= 0
    chart.focus()
    page.keyboard.press("ArrowLeft")
    assert float(re.search(r"[0-9.]+", box.locator("th.at").text_content()).group()) <= radius
    assert troubles == []


def test_classifiers_are_switched_on_and_off_each_in_a_colour_of_its_own(
    opened: tuple[Any, list[str]], results: Results
) -> None:
    page, troubles = opened
    box = _curves(page)
    lines = box.locator(".chart path:has(title)")
    names = [entry.name for entry in entries(results, 0.25)]
    assert lines.count() == len(names)
    strokes = [(line.get_attribute("stroke"), line.get_attribute("stroke-dasharray")) for line in lines.all()]
    assert len({*strokes}) == len(names)
    box.locator("tbody tr", has_text="advmacer_tuned").locator("input").uncheck()
    assert sorted(lines.locator("title").all_text_contents()) == sorted({*names} - {"advmacer_tuned"})
    box.locator("tbody tr", has_text="advmacer_tuned").locator("input").check()
    assert lines.count() == len(names)
    box.locator("label", has_text="σ = 0.5").locator("input").check()
    names = [entry.name for entry in entries(results, 0.5)]
    assert sorted(lines.locator("title").all_text_contents()) == sorted(names)
    assert troubles == []


def test_on_paper_and_without_scripts_the_still_curves_stand_there(page_file: Path, running: Any) -> None:
    page = running.new_page()
    page.goto(page_file.as_uri())
    box, still = _curves(page), page.locator(".curves + .figures")
    assert box.is_visible()
    assert not still.is_visible()
    page.emulate_media(media="print")
    assert not box.is_visible()
    assert still.is_visible()
    page.close()
    context = running.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(page_file.as_uri())
    page.locator(f"{CURVES} > summary").click()
    assert page.locator(".curves + .figures").is_visible()
    assert not page.locator(".curves").is_visible()
    context.close()


def _luminance(page: Any, what: str) -> float:
    """Return the relative luminance of a colour of the page's body."""
    numbers = page.evaluate(f"getComputedStyle(document.body).{what}.match(/[0-9.]+/g).map(Number)")[:3]
    linear = [n / 255 / 12.92 if n / 255 <= 0.04045 else ((n / 255 + 0.055) / 1.055) ** 2.4 for n in numbers]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(
    ("scheme", "media", "dark"), [("dark", "screen", True), ("light", "screen", False), ("dark", "print", False)]
)
def test_text_stands_out_on_screens_light_and_dark_and_on_paper(
    opened: tuple[Any, list[str]], scheme: str, media: str, dark: bool
) -> None:
    page, _ = opened
    page.emulate_media(color_scheme=scheme, media=media)
    ground, text = _luminance(page, "backgroundColor"), _luminance(page, "color")
    assert (ground < text) == dark
    # WCAG's contrast of enhanced readability.
    assert (max(ground, text) + 0.05) / (min(ground, text) + 0.05) >= 7
