"""Members' margins on the calibration images, and the radii that weights for them would give."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri
from torch import Tensor

from rspipe.arrays import BoolArray, FloatArray, IntArray, check_label_shape
from rspipe.ensembles.moments import ImageMargins, image_margins
from rspipe.ensembles.weights_acr import gaussian_radii
from rspipe.networks.deployment import deploy
from rspipe.networks.modes import device_of
from rspipe.networks.precision import AnyPrecision
from rspipe.smoothing.certificates import check_can_certify, radius_cap
from rspipe.smoothing.certify import check_image
from rspipe.smoothing.classifiers import Average
from rspipe.smoothing.ensemble import refuse_ensembles
from rspipe.smoothing.labels import check_labels, label_array, number_of_classes
from rspipe.smoothing.noise import Noise


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
        score: nothing is assumed of the margins, but no more is seen than so many draws show (`largest_radius`, and
        `saturated` for how many images that is too little). Where margins were not kept, they are taken for Gaussian.
        """
        points = np.atleast_2d(np.asarray(weights, dtype=np.float64))
        if self.margins is None:
            radii = np.stack([self.gaussian_radii(one) for one in points])
        else:
            share = (_right(self.margins, points) + 0.5) / (self.margins.shape[1] + 1)
            radii = np.clip(ndtri(share), 0.0, self.cap)
        return radii.reshape(*np.shape(weights)[:-1], -1)

    def votes(self, weights: FloatArray) -> IntArray:
        """Return [image, 1 + competitor] the draws at which an ensemble of weights [k] returns each class.

        The label comes first. Beyond the competitors that were kept no class is told apart.

        Raises:
            ValueError: Margins were not kept.
        """
        if self.margins is None:
            raise ValueError("votes are counted from margins, which were not kept")
        column = np.asarray(weights, dtype=np.float32)
        above = np.stack([image.astype(np.float32) @ column for image in self.margins])
        returned = np.where((above > 0).all(-1), 0, 1 + above.argmin(-1))
        return np.asarray((returned[..., None] == np.arange(1 + above.shape[-1])).sum(1), dtype=np.int64)

    @property
    def largest_radius(self) -> float:
        """Where `radii` end, in units of sigma: right at all draws; 2.81 with 200 of them."""
        if self.margins is None:
            return self.cap
        draws = self.margins.shape[1]
        return min(float(ndtri((draws + 0.5) / (draws + 1))), self.cap)

    def saturated(self, weights: FloatArray) -> float:
        """Return the share of images whose `radii` end at `largest_radius` for an ensemble of weights [k].

        Two ensembles that are both right at all draws of an image look alike there, whichever has the larger radius.
        """
        return float(np.mean(self.radii(weights) >= self.largest_radius))


def _right(margins: NDArray[np.float16] | FloatArray, points: FloatArray) -> IntArray:
    """Return [point, image] the draws at which ensembles of weights [point, k] are right."""
    columns = points.T.astype(np.float32)
    right = [(image.astype(np.float32) @ columns > 0).all(1).sum(0) for image in margins]
    return np.stack(right, axis=1)


def margin_moments(
    models: Sequence[Callable[[Tensor], Any]],
    images: Tensor,
    labels: ArrayLike | Tensor,
    *,
    sigma: float,
    average: Average = "probabilities",
    draws: int = 200,
    n: int = 100_000,
    alpha: float = 0.001,
    seed: int = 0,
    examples: Sequence[int] | None = None,
    precision: AnyPrecision = "auto",
) -> Calibration:
    """Return the moments of an ensemble's label margins under noise that all members see, on held-out images.

    Weights follow from them: `rspipe.choose_weights("esbrs_ratio", moments)`. They are those of a study with the same
    images, members and numbers. Images that are certified afterwards must not be among them.

    Args:
        models: The members, two or more; `rspipe.deploy(model, precision=...)` runs.
        images: [image, ...] in [0, 1].
        labels: [image].
        sigma: Standard deviation of the noise.
        average: What the ensemble averages, "probabilities" or "logits".
        draws: Noise draws per image, at least 2.
        n: Samples of the certification to come, which limit its radii.
        alpha: Failure probability of it.
        seed: Of the noise.
        examples: [image] positions in the data set, which the noise depends on; 0, 1, 2, ... by default.
        precision: Of the forward pass, as in `rspipe.deploy`.

    Raises:
        ValueError: An argument is out of range, an image or a label is none, numbers of them differ, or a model is an
            ensemble.
        ModelError: A network returned no logits, NaN, +inf or a wrong shape.
    """
    known = label_array(labels)
    check_label_shape(known.shape)
    if len(images) != len(known) or len(known) == 0:
        raise ValueError(f"images and labels must be of one length above 0, got {len(images)} and {len(known)}")
    if examples is not None and len(examples) != len(known):
        raise ValueError(f"examples and images must be equally many, got {len(examples)} and {len(known)}")
    if average not in get_args(Average) or draws < 2 or not 0 < sigma < np.inf:
        raise ValueError(
            f"average must be 'probabilities' or 'logits', draws at least 2 and sigma positive, got {average!r}, "
            f"{draws} and {sigma}"
        )
    check_can_certify(n, alpha)
    if len(models) < 2:
        raise ValueError(f"an ensemble has two members or more, got {len(models)}")
    refuse_ensembles(models)
    networks = [deploy(model, precision=precision) for model in models]
    device = device_of(*networks)
    margins: list[ImageMargins] = []
    for position, (image, label) in enumerate(zip(images, known.tolist(), strict=True)):
        noise = Noise(seed, position if examples is None else int(examples[position]))
        x = torch.as_tensor(image)
        check_image(x, sigma=sigma)
        x = x.to(device=device, dtype=torch.float32)
        if not margins:
            check_labels(known.tolist(), classes=number_of_classes(networks[0], x))
        of_average = image_margins(networks, x, label, noise, averages=(average,), sigma=sigma, draws=draws)
        margins.append(of_average[average])
    return Calibration(
        mean=np.stack([one.moments.mean for one in margins]),
        covariance=np.stack([one.moments.covariance for one in margins]),
        draws=draws,
        cap=radius_cap(sigma=1.0, n=n, alpha=alpha),
        label_probability=np.stack([one.label_probability for one in margins]),
        margins=np.stack([one.margins for one in margins]),
    )
