"""Facts about comparing runs: paired on the same images, on the same terms, or not at all."""

import numpy as np

N0, N, ALPHA = 100, 2000, 0.001
EXAMPLES = np.arange(0, 120, 2)
