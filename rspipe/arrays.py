"""NumPy arrays by the kind of numbers that they hold, and the shape of labels."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
TextArray = NDArray[np.str_]


def check_label_shape(shape: Sequence[int]) -> None:
    """Raise ValueError unless labels of such a shape are one an image.

    A column [image, 1], as some data sets have it, would be compared with all predictions at once.
    """
    if len(shape) != 1:
        raise ValueError(f"labels have shape {list(shape)}; give one whole number an image, [image]")
