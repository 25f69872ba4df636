"""Noise for images whose pixels lie on a grid, drawn exactly: no rounding stands between it and the theorem.

An image is a vector a of whole numbers, its pixels a / steps: of 8 bits, steps = 255. The network sees (a + K) / steps
with independent whole numbers K = round(s Z), Z ~ N(0, 1), s = sigma steps. Since a is whole, a + round(s Z) =
round(a + s Z): the counts are those of a classifier of real vectors, x -> F(round(x)), under exactly Gaussian noise,
whatever F, the network with its own rounding, makes of whole numbers. Sums below 2^24 are exact in float32, and what
the division by `steps` rounds is a part of F. So Cohen's theorem holds as it stands, for all y within the radius; at
those on the grid, the smoothed classifier is what is drawn here.

K is drawn from 80 random bits, U, and the numbers T_k = floor(2^80 P(K <= k)): it is the k with T_(k-1) <= U < T_k,
within |k| <= m = ceil(10.6 s). A probability misses its value by less than 2^-80, so the law of K is wrong by at most
(2m + 2) 2^-81 in total variation (sigma = 1: 2.3e-21), and that of all noise of an image by this times how many numbers
are drawn. The first 16 bits mostly decide: a table has k by them. Where a T_k has the same 16 bits, 64 more are drawn.

Ideal random bits are assumed; and F must be a function: what it makes of a sample may not depend on others beside it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

GRIDS = (255, 256)
"""Steps from 0 to 1 of the grids that are looked for: of 8 bits, and of binary fractions."""

SCALES = (0.125, 4096.0)
"""Least and largest s for which there is noise on a grid: below, nearly all of it would be rounded away."""

_PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640629")

_BITS, _FIRST, _MORE = 80, 16, 64

_UNDECIDED = math.inf


def grid_steps(x: Tensor, *, sigma: float) -> int | None:
    """Return the steps from 0 to 1 of the first grid that all numbers of x lie on as float32, or float64; else None.

    There is none either where x or the noise is too large: sums are exact below 2^24.
    """
    if x.dtype != torch.float64:
        x = x.to(torch.float32)
    for steps in GRIDS:
        if not SCALES[0] <= sigma * steps <= SCALES[1]:
            return None
        whole = (x * steps).round()
        # A GPU multiplies by the reciprocal of a plain number, which rounds otherwise.
        if bool((whole / torch.tensor(steps, dtype=x.dtype, device=x.device) == x).all()):
            reached = float(whole.abs().max()) if whole.numel() else 0.0
            return steps if reached + _largest(sigma * steps) < 2**24 else None
    return None


def _largest(scale: float) -> int:
    return math.ceil(10.6 * scale)


def thresholds(sigma: float, steps: int) -> list[int]:
    """Return T_k = floor(2^80 P(round(s Z) <= k)) for -m <= k < m, where s is sigma times steps, without rounding.

    The probability of k is that of Z within h = 1 / (2 s) of c = k / s: phi(c) sum_j 2 He_2j(c) h^(2j+1) / (2j+1)! with
    Hermite's polynomials. Since |He_n(c)| <= 1.09 sqrt(n!) exp(c^2 / 4), what `_terms` leaves out is below 1e-40;
    numbers have 60 digits.
    """
    with localcontext(prec=60):
        step = 1 / (Decimal(sigma) * steps)
        half, terms = step / 2, _terms(float(step) / 2)
        # phi(c), and its ratio to the next one.
        density, ratio, factor = 1 / (2 * _PI).sqrt(), (-step * step / 2).exp(), (-step * step).exp()
        total, above = Decimal("0.5"), []
        for k in range(_largest(sigma * steps)):
            probability = 2 * density * _series(k * step, half, terms=terms)
            total += probability if k else probability / 2
            above.append(int(2**_BITS * total))
            density, ratio = density * ratio, ratio * factor
    # P(K <= -1 - k) = 1 - P(K <= k).
    return [2**_BITS - 1 - t for t in reversed(above)] + above


def _terms(half: float) -> int:
    """Return after how many terms all are below 1e-42 by the bound on Hermite's polynomials."""
    terms = 1
    while (2 * terms + 1) * math.log(half) - math.lgamma(2 * terms + 1) / 2 > -42 * math.log(10):
        terms += 1
    return terms + 1


def _series(c: Decimal, half: Decimal, *, terms: int) -> Decimal:
    """Return the sum of so many He_2j(c) half^(2j+1) / (2j+1)!."""
    total, power, before, now = Decimal(0), half, Decimal(0), Decimal(1)
    for order in range(0, 2 * terms, 2):
        total += now * power
        odd = c * now - order * before
        before, now = odd, c * odd - (order + 1) * now
        power *= half * half / ((order + 2) * (order + 3))
    return total


@dataclass(frozen=True)
class GridTable:
    """The law of K, as it is drawn from; arrays are NumPy's on the CPU, where it is faster, and torch's on GPUs."""

    decided: Tensor
    """[65536] k by the first 16 bits, float32; infinity where these do not decide."""
    first: Any
    """[65536] the first of the thresholds that begin with these bits or larger ones."""
    last: Any
    """[65536] the first of those that begin with larger ones."""
    low: Any
    """[2 m + 1] the other 64 bits of each threshold, less 2^63, int64; and one that is none."""
    middle: tuple[int, int]
    """The first 16 bits between which at most one threshold begins with the same."""

    def draw(self, words: Tensor, *more: Callable[[int], Tensor], size: int) -> Tensor:
        """Return noise K [row, size], whole numbers in float32.

        Args:
            words: [row, ceil(size / 4)] int64 of 64 random bits each.
            *more: Each returns that many more words for an equal share of the rows, used in their order.
            size: Numbers in a row.
        """
        cells = words.view(torch.int16)[:, :size].to(torch.int32).add_(2**15).flatten()
        drawn = self.decided.index_select(0, cells)
        if isinstance(self.low, np.ndarray):
            self._decide(np, drawn.numpy(), cells.numpy(), more)
        else:
            self._decide(torch, drawn, cells, more)
        return drawn.view(len(words), size)

    def _decide(self, library: Any, drawn: Any, cells: Any, more: Sequence[Callable[[int], Tensor]]) -> None:
        """Replace what 16 bits left undecided, by 64 more."""
        (undecided,) = library.where(drawn == _UNDECIDED)
        if not len(undecided):
            return
        share = len(cells) // len(more)
        needed = [len(undecided)]
        if len(more) > 1:
            needed = library.bincount(undecided // share, minlength=len(more)).tolist()
        words = torch.cat([one(number) for one, number in zip(more, needed, strict=True)])
        cell, bits = cells[undecided], words if library is torch else words.numpy()
        reached = self.first[cell]
        reached = reached + (self.low[reached] <= bits)
        (tails,) = library.where((cell < self.middle[0]) | (cell >= self.middle[1]))
        if len(tails):
            reached[tails] = self._bisected(library, cell[tails], bits[tails])
        drawn[undecided] = library.asarray(reached - len(self.low) // 2, dtype=library.float32)

    def _bisected(self, library: Any, cell: Any, bits: Any) -> Any:
        """Return how many thresholds U has reached, by its first 16 bits and the others."""
        begin, end = self.first[cell], self.last[cell]
        for _ in range(int((end - begin).max()).bit_length()):
            middle = (begin + end) // 2
            passed = (middle < end) & (self.low[middle] <= bits)
            begin, end = library.where(passed, middle + 1, begin), library.where(passed, end, middle)
        return begin


@lru_cache(maxsize=32)
def grid_table(sigma: float, steps: int, device: torch.device) -> GridTable:
    """Return the law of K for noise of standard deviation sigma on a grid, on a device."""
    return table_of(thresholds(float(sigma), steps), device, torch_alone=device.type != "cpu")


def table_of(numbers: Sequence[int], device: torch.device, *, torch_alone: bool) -> GridTable:
    """Return the table of thresholds."""
    high = np.array([number >> _MORE for number in numbers])
    low = np.array([number % 2**_MORE - 2 ** (_MORE - 1) for number in numbers] + [0])
    first, last = (np.searchsorted(high, np.arange(2**_FIRST), side=side) for side in ("left", "right"))
    decided = np.where(first == last, first - len(numbers) // 2, _UNDECIDED).astype(np.float32)
    several = np.flatnonzero(last - first > 1)
    half = 2 ** (_FIRST - 1)
    middle = (several[several < half].max(initial=-1) + 1, several[several >= half].min(initial=2**_FIRST))
    arrays: list[Any] = [torch.from_numpy(one).to(device) if torch_alone else one for one in (first, last, low)]
    return GridTable(
        decided=torch.from_numpy(decided).to(device),
        first=arrays[0],
        last=arrays[1],
        low=arrays[2],
        middle=(int(middle[0]), int(middle[1])),
    )
