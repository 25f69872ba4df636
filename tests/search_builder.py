"""Searches of AdvMacer on digits, for tests."""

from typing import Any

from rspipe.data.spec import DigitsData
from rspipe.search.spec import SearchSpec


def search_spec(**content: Any) -> SearchSpec:
    """Return a search: method, training, space, trials and seed are to be given."""
    common = {
        "label": "tuned",
        "data": DigitsData(),
        "architecture": "digits_cnn",
        "sigma": 0.5,
        "n": 100,
        "alpha": 0.001,
    }
    return SearchSpec(**{**common, **content})
