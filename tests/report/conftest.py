"""Fixtures of the tests of the report."""

import pytest

from rspipe.report.section import Section


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave figures out of pages, for tests of their words: to draw them takes most of a page's time."""
    monkeypatch.setattr(Section, "pictures", {})
