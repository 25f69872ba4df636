"""Errors of the world around the numbers. A wrong argument is a plain `ValueError`.

    RspipeError
    ├── StudyError     the study file or an override says something impossible
    ├── DataError      images or labels are missing or unreadable
    ├── ModelError     a base classifier does not behave like one (NaN logits, wrong shape)
    │   └── BrokenModelError   it is one of several models of a study, which go on without it
    ├── SolverError    no solver found usable ensemble weights
    ├── LogError       a file is no certification log, or cannot be read
    ├── MismatchError  results that do not answer the same question are not compared
    ├── StoreError     the run directory belongs to another study, is in use, or cannot be reached
    │   └── DamagedError   a file in it is damaged or missing, and can be recreated
    ├── ClusterError   Ray cannot be reached, refuses us, or lacks the resources
    │   └── WorkersLostError   workers or their nodes died; what they had not finished can be done by others
    └── MissingPackageError   what is asked for needs a package of an extra that is not installed

Messages are one line: the place, the value, the remedy. Several mistakes of a study file are a line each.
"""

import difflib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import accumulate


class RspipeError(Exception):
    """Base of all errors that a user can act upon."""


class StudyError(RspipeError):
    """The study file or an override of it is wrong."""


class DataError(RspipeError):
    """A data set is missing, unreadable or inconsistent."""


class ModelError(RspipeError):
    """A base classifier returned something that is not a class score."""

    member: int | None = None
    """Position of the one that did so, where several run."""


class BrokenModelError(ModelError):
    """A model of a study returned something that is not a class score; the message begins with its id and a colon."""

    @property
    def model(self) -> str:
        """Its id."""
        return str(self).partition(": ")[0]


class SolverError(RspipeError):
    """The weights of an ensemble could not be solved for."""


class LogError(RspipeError):
    """A file is no certification log, or cannot be read."""


class MismatchError(RspipeError):
    """Results that do not answer the same question are not compared."""


class StoreError(RspipeError):
    """A run directory cannot be used."""


class DamagedError(StoreError):
    """A file of a run directory is not what was written, or is missing."""


class ClusterError(RspipeError):
    """The Ray cluster cannot be reached or cannot give what is asked for."""


class WorkersLostError(ClusterError):
    """Workers died, and with them what they were at."""


class MissingPackageError(RspipeError, ImportError):
    """A package of an extra is not installed."""


@contextmanager
def needs_extra(what: str, *, extra: str = "pipeline") -> Iterator[None]:
    """Name the extra to install when an import within fails for want of a package.

    Raises:
        MissingPackageError: A package other than rspipe is missing; the message says that `what` needs it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "rspipe"):
            raise
        raise MissingPackageError(
            f"{what} needs {package}, which is not installed; pip install 'rspipe[{extra}]'"
        ) from error


def first_line(error: BaseException) -> str:
    """Return the first line of what an error of somebody else's says, or its type where it says nothing.

    TorchScript says where it failed first, and why in the last one.
    """
    lines = str(error).strip().splitlines() or [type(error).__name__]
    in_torchscript = lines[0].startswith("The following operation failed in the TorchScript interpreter")
    return lines[-1 if in_torchscript else 0].removeprefix(f"{type(error).__name__}: ")


def one_line(error: BaseException) -> str:
    """Return all that an error of somebody else's says, in one line, or its type where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


# What moves a terminal's cursor, turns the direction of a text, or is no character: all but tabs and line ends.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Return a text that does nothing to a terminal but stand in it; control characters become \\x1b and the like."""
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


# The papers' own words; "lambda" is a keyword of Python, and nearer to gamma.
_WRITTEN_OUT = {"lambda": "lbd", "lamda": "lbd", "lam": "lbd", "epsilon": "eps", "learning_rate": "lr"}


_LONGEST_LIST = 800


def nearest_name(name: str, valid: Iterable[str]) -> str | None:
    """Return the valid name nearest to a wrong one, whatever the case of either; None where none is near."""
    names = {one.casefold(): one for one in sorted(valid)}
    written_out = _WRITTEN_OUT.get(name.casefold(), "")
    if written_out in names:
        return names[written_out]
    return next((names[one] for one in difflib.get_close_matches(name.casefold(), names, n=1, cutoff=0.5)), None)


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the valid name nearest to a wrong one, else the list of valid names."""
    names = sorted(valid)
    if not names:
        return "; there are none"
    close = nearest_name(name, names)
    if close is not None:
        return f"; did you mean {close!r}?"
    # An ensemble of each choice of seeds is a name; nobody reads hundreds.
    shown = names[: max(1, sum(end <= _LONGEST_LIST for end in accumulate(len(name) + 2 for name in names)))]
    more = f" and {len(names) - len(shown)} more" if len(shown) < len(names) else ""
    return f"; valid names: {', '.join(shown)}{more}"
