"""Short names of classifiers for tables, figures, the terminal and MLflow, and the legend that explains them."""

import re
from collections.abc import Iterable, Sequence

_WEIGHTINGS = {
    "uniform": "",
    "esbrs_paper": "EsbRs",
    "esbrs_ratio": "ratio",
    "esbrs_acr": "ACR weights",
    "sween": "SWEEN",
    "auto": "auto",
    "mme": "MME",
    "consensus": "consensus",
}
"""What a short name says of how members are combined, by the name in a study file; nothing of the plain average."""

_MEANINGS = {
    "EsbRs": "weights that minimize the bound of Liu et al. (esbrs_paper)",
    "ratio": "weights that maximize the mean margin over its standard deviation (esbrs_ratio)",
    "ACR weights": "weights that maximize the ACR of Gaussian margins (esbrs_acr)",
    "SWEEN": "weights that minimize the log-loss under noise (sween)",
    "auto": "of several solved weights those that do best on calibration images held out (auto)",
    "MME": "the member with the largest margin answers (mme)",
    "consensus": "an answer needs the members' agreement (consensus)",
    "logits": "logits are averaged instead of probabilities",
}

_COMBINED = re.compile(r" \((?P<weights>[a-z_]+( of \d+)?)(, (?P<average>[a-z]+))?\)")


def short_name(name: str) -> str:
    """Return the short form of a classifier's name in a study file; no two names of a study have the same.

    "advmacer x1 + smoothadv x2 (esbrs_paper)" is "advmacer + smoothadv ×2 · EsbRs"; a plain average has no ending.
    """

    def ending(match: re.Match[str]) -> str:
        words = (_WEIGHTINGS.get(match["weights"], match["weights"]), match["average"])
        return "".join(f" · {word}" for word in words if word)

    counted = re.sub(r"(?<=\w) x(\d+)(?= |$)", lambda match: "" if match[1] == "1" else f" ×{match[1]}", name)
    return _COMBINED.sub(ending, counted)


def weighting_name(method: str) -> str:
    """Return the short name of how members are combined, by the name in a study file."""
    return _WEIGHTINGS.get(method, method) or "plain average"


def legend(names: Iterable[str]) -> tuple[str, ...]:
    """Return what the parts of short names mean, a phrase for each that occurs in some of them."""
    listed = [*names]
    phrases = []
    if any(" ×" in name or " + " in name for name in listed):
        phrases.append("A + B ×2: one model of A and two of B as one classifier, by the average of their outputs")
    for word, meaning in _MEANINGS.items():
        if any(f"· {word}" in name for name in listed):
            phrases.append(f"{word}: {meaning}")
    if any(" over " in name for name in listed):
        phrases.append("A over σ1, σ2: A at σ1 answers where it is sure, and else hands on to σ2 (a cascade)")
    return tuple(phrases)


def enumerated(words: Sequence[str]) -> str:
    """Return words as a sentence lists them: "a, b and c"."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1]))) if words else ""
