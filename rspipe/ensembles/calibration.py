"""Members' margins on the calibration images, and the radii that weights for them would give."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from rspipe.arrays import BoolArray, FloatArray, IntArray
from rspipe.ensembles.weights_acr import gaussian_radii


@dataclass(frozen=True)
class Calibration:
    """Members' margins of the label, from noise on calibration images."""

    mean: FloatArray
    """[image, competitor, k]."""
    covariance: FloatArray
    """[image, competitor, k, k], over noise."""
    draws: int
    """Noise draws per image."""
    cap: float
    """Largest radius that certification can prove, in units of sigma."""
    label_probability: NDArray[np.float32] | FloatArray | None = None
    """[image, draw, k] probabilities of the label, where they were kept."""
    margins: NDArray[np.float16] | FloatArray | None = None
    """[image, draw, competitor, k], where they were kept."""

    def of_members(self, members: Sequence[int]) -> "Calibration":
        """Return what is known of some members, by position."""
        kept = list(members)
        return replace(
            self,
            mean=self.mean[..., kept],
            covariance=self.covariance[..., kept, :][..., kept],
            label_probability=None if self.label_probability is None else self.label_probability[..., kept],
            margins=None if self.margins is None else self.margins[..., kept],
        )

    def of_images(self, images: BoolArray | IntArray) -> "Calibration":
        """Return what is known from some images."""
        return replace(
            self,
            mean=self.mean[images],
            covariance=self.covariance[images],
            label_probability=None if self.label_probability is None else self.label_probability[images],
            margins=None if self.margins is None else self.margins[images],
        )

    def gaussian_radii(self, weights: FloatArray) -> FloatArray:
        """Return [image] radii in units of sigma that an ensemble would have if margins were Gaussian."""
        return gaussian_radii(weights, self.mean, self.covariance, cap=self.cap)

    def radii(self, weights: FloatArray) -> FloatArray:
        """Return [..., image] estimates of the radii, in units of sigma, of ensembles of weights [..., k].

        Phi^-1((v + 1/2) / (draws + 1)), between 0 and the cap, with v the draws at which the label has the largest
        score: nothing is assumed of the margins, but no more is seen than so many draws show. Where margins were not
        kept, they are taken for Gaussian.
        """
        points = np.atleast_2d(np.asarray(weights, dtype=np.float64))
        if self.margins is None:
            radii = np.stack([self.gaussian_radii(one) for one in points])
        else:
            columns = points.T.astype(np.float32)
            right = [(image.astype(np.float32) @ columns > 0).all(1).sum(0) for image in self.margins]
            share = (np.stack(right, axis=1) + 0.5) / (self.margins.shape[1] + 1)
            radii = np.clip(ndtri(share), 0.0, self.cap)
        return radii.reshape(*np.shape(weights)[:-1], -1)
