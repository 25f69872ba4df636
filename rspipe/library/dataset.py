"""A data set certified in one call: the counts that a study would have, without a study, a cluster or a disk."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.utils.data import DataLoader

from rspipe.arrays import IntArray, check_label_shape
from rspipe.library.certified import CertifiedDataset
from rspipe.networks.deployment import Deployed, deploy
from rspipe.networks.modes import device_of
from rspipe.networks.precision import AnyPrecision
from rspipe.smoothing.certify import check_image
from rspipe.smoothing.classifiers import Average, BatchLimit, Classifier
from rspipe.smoothing.counting import count_image
from rspipe.smoothing.counts import CountTable, of_classifier
from rspipe.smoothing.ensemble import Ensemble, refuse_ensembles
from rspipe.smoothing.labels import check_labels, label_array, number_of_classes
from rspipe.smoothing.noise import NoiseKind, noise_steps
from rspipe.smoothing.progress import progress_line
from rspipe.smoothing.sampling import Rule, Sampling, rule_of

Model = Callable[[Tensor], Any]


def certify_dataset(
    models: Model | Sequence[Model],
    images: Tensor | Iterable[Any],
    labels: ArrayLike | Tensor | None = None,
    *,
    sigma: float,
    weights: Sequence[float] | None = None,
    average: Average | None = None,
    rule: Rule | str | Mapping[str, Any] = "fixed",
    n0: int = 100,
    n: int = 100_000,
    alpha: float = 0.001,
    seed: int = 0,
    examples: Sequence[int] | None = None,
    precision: AnyPrecision = "auto",
    block_size: int = 1000,
    batch_size: int | None = None,
    noise: NoiseKind = "auto",
    progress: bool = False,
) -> CertifiedDataset:
    """Certify a smoothed classifier, or an ensemble of several and each of its members, at every image.

    What is certified is `rspipe.deploy(model, precision=...)`. Noise depends on (seed, example) alone, so the counts
    are those of a study that certifies the same images under the same numbers, with as many threads.

    Args:
        models: A base classifier, an `rspipe.Ensemble`, or several base classifiers, of which the ensemble is certified
            and its members in the same pass.
        images: [image, ...] in [0, 1]; or pairs of images and labels in batches, as a DataLoader gives them, or one by
            one, as a Dataset does.
        labels: [image], where the images come without.
        sigma: Standard deviation of the noise, in the units of the images.
        weights: Of the ensemble, one per model; uniform by default.
        average: What the ensemble averages; probabilities by default.
        rule: "fixed" (CERTIFY), "planned", "radius_grid" or "decide", or a table of the name and its parameters.
        n0: Samples that select the class.
        n: Samples that estimate its probability, at most.
        alpha: Failure probability of each certificate.
        seed: Of the noise.
        examples: [image] positions in the test part of a data set, which the noise depends on; 0, 1, 2, ... by default.
        precision: Of the forward pass, as in `rspipe.deploy`.
        block_size: Noise samples per block, part of the noise's definition.
        batch_size: Samples per forward pass, a divisor of `block_size`; chosen by the size of an image by default.
        noise: "grid" for whole numbers that are drawn exactly, where images have 8 bits, "float" for float32 numbers,
            "auto" for the first at every image where it can be: see `rspipe.smoothing.grid` for what is guaranteed.
        progress: Whether to show on stderr how far it is.

    Raises:
        ValueError: An argument is out of range, an image or a label is none, numbers of them differ, or one of several
            models is an ensemble.
        ModelError: A network returned no logits, NaN, +inf, a wrong shape or another number of classes.
    """
    sampling = Sampling(rule_of(rule), n0, n, alpha, seed, block_size, batch_size, noise)
    if not (sigma > 0 and np.isfinite(sigma)):
        raise ValueError(f"sigma must be positive, got {sigma}")
    networks, classifiers = _classifiers(models, weights=weights, average=average, precision=precision)
    device = device_of(*networks)
    known = None if labels is None else label_array(labels)
    if known is not None:
        check_label_shape(known.shape)
    total = _length(images) if known is None else len(known)
    numbers = None if examples is None else [int(example) for example in examples]
    if numbers is not None and total is not None and len(numbers) != total:
        raise ValueError(f"examples and images must be equally many, got {len(numbers)} and {total}")
    if numbers is not None and min(numbers, default=0) < 0:
        raise ValueError(f"examples must be 0 or more, got {min(numbers)}")
    if isinstance(images, Tensor | np.ndarray | list):
        # What can be known beforehand is not found out after hours.
        for image, _ in _labelled(images, known):
            check_image(image, sigma=sigma)
            noise_steps(image.to(torch.float32), noise, sigma=sigma)
    passes: list[CountTable] = []
    limit, classes = BatchLimit(), 0
    with progress_line(total or 0, "images", shown=progress) as advance:
        for position, (image, label) in enumerate(_labelled(images, known)):
            check_image(image, sigma=sigma)
            x = image.to(device=device, dtype=torch.float32)
            if not classes:
                classes = number_of_classes(networks[0], x)
                check_labels([] if known is None else known.tolist(), classes=classes)
            check_labels([label], classes=classes, first=position)
            if numbers is not None and position >= len(numbers):
                raise ValueError(f"examples are {len(numbers)}, fewer than the images")
            passes.append(
                count_image(
                    networks,
                    classifiers,
                    x,
                    label=label,
                    sigma=sigma,
                    spec=sampling,
                    example=position if numbers is None else numbers[position],
                    classes=classes,
                    limit=limit,
                )
            )
            advance(1)
    if not passes:
        raise ValueError("there are no images")
    if numbers is not None and len(numbers) > len(passes):
        raise ValueError(f"examples are {len(numbers)}, more than the {len(passes)} images")
    first, *members = (
        CertifiedDataset(
            one.id,
            of_classifier(passes, row),
            precision=", ".join(sorted({networks[member].precision for member in one.members})),
        )
        for row, one in enumerate(classifiers)
    )
    return replace(first, members=tuple(members))


def _classifiers(
    models: Model | Sequence[Model],
    *,
    weights: Sequence[float] | None,
    average: Average | None,
    precision: AnyPrecision,
) -> tuple[list[Deployed], list[Classifier]]:
    """Return deployed networks, and what is certified of them: an ensemble before its members."""
    if isinstance(models, Ensemble):
        for name, given in (("weights", weights), ("average", average)):
            if given is not None:
                raise ValueError(f"the ensemble has {name} of its own; drop {name!r}")
        return [deploy(member, precision=precision) for member in models.members], [models.classifier]
    several = list(models) if isinstance(models, Sequence) and not callable(models) else [models]
    if not several:
        raise ValueError("there is no model")
    if len(several) > 1:
        refuse_ensembles(several)
    networks = [deploy(model, precision=precision) for model in several]
    if len(networks) == 1:
        for name, given in (("weights", weights), ("average", average)):
            if given is not None:
                raise ValueError(f"{name} is for an ensemble; give several models")
        return networks, [Classifier("model", (0,), (1.0,))]
    ensemble = Ensemble(networks, weights=weights, average=average or "probabilities").classifier
    return networks, [ensemble, *(Classifier(f"member {k}", (k,), (1.0,)) for k in range(len(networks)))]


def _length(images: Any) -> int | None:
    """Return the number of images that come with labels, where it is known before; what one iterates may be batches."""
    if isinstance(images, DataLoader):
        # Batches of the user's own choice, or a last one that is dropped, leave images out.
        images = images.sampler if images.batch_size and not images.drop_last else None
    elif hasattr(images, "__iter__"):
        return None
    return len(images) if hasattr(images, "__len__") else None


def _items(images: Any) -> Iterator[Any]:
    """Return the items, one by one; a data set of torch's has them by number, and need not say where it ends."""
    if hasattr(images, "__iter__") or not hasattr(images, "__len__"):
        return iter(images)
    return (images[number] for number in range(len(images)))


def _labelled(images: Any, labels: IntArray | None) -> Iterator[tuple[Tensor, int]]:
    """Yield images with their labels, one by one."""
    if labels is not None:
        if hasattr(images, "__len__") and len(images) != len(labels):
            raise ValueError(f"images and labels must be equally many, got {len(images)} and {len(labels)}")
        yield from zip(map(_tensor, _items(images)), labels.tolist(), strict=True)
        return
    if isinstance(images, Tensor | np.ndarray):
        raise ValueError("labels are missing: give them beside the images, or pairs of both")
    for item in _items(images):
        if not (isinstance(item, tuple | list) and len(item) == 2):
            raise ValueError(
                f"images must come with their labels, as pairs (images, labels); got {type(item).__name__}"
            )
        some, their_labels = item[0], label_array(item[1])
        if their_labels.ndim == 0:
            yield _tensor(some), int(their_labels)
        elif their_labels.ndim > 1 or len(some) != len(their_labels):
            raise ValueError(f"labels of a batch of {len(some)} images have shape {list(their_labels.shape)}")
        elif len(some) == 1 and np.ndim(some) == 3 and np.shape(some)[1] == np.shape(some)[2]:
            raise ValueError(
                f"an item {list(np.shape(some))} with a label in brackets is a batch of one, or one image; "
                "give the label as a number, or image[None]"
            )
        else:
            yield from zip(map(_tensor, some), their_labels.tolist(), strict=True)


def _tensor(image: Any) -> Tensor:
    return torch.from_numpy(image) if isinstance(image, np.ndarray) else image
