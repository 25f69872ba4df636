"""Fixtures of the tests of the report."""

import pytest

from rspipe.report import figures


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the figures of pages empty, for tests of their words: to draw them takes most of a page's time."""
    monkeypatch.setattr(figures, "figure_svg", lambda _figure, **_name: "<svg></svg>")
