"""Denoised smoothing (Salman et al. 2020, arXiv 2003.01908): a denoiser before a classifier is a base classifier."""

from typing import Any

from torch import Tensor, nn


class Denoised(nn.Module):
    """A classifier of what a denoiser makes of noisy images; the denoiser gets pixels, as they come."""

    def __init__(self, denoiser: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.denoiser, self.classifier = denoiser, classifier

    def forward(self, images: Tensor) -> Any:
        """Return what the classifier returns."""
        return self.classifier(self.denoiser(images))


class _DnCNN(nn.Module):
    """The denoiser of Zhang et al. 2017 (arXiv 1608.03981): convolutions estimate the noise, which is subtracted.

    Layers and their names are those of the checkpoints that Salman et al. published.
    """

    def __init__(self, *, channels: int, depth: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
        for _ in range(depth - 2):
            layers += [
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width, eps=1e-4, momentum=0.95),
                nn.ReLU(inplace=True),
            ]
        layers.append(nn.Conv2d(width, channels, 3, padding=1, bias=False))
        self.dncnn = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        noise: Tensor = self.dncnn(images)
        return images - noise


def dncnn() -> nn.Module:
    """Return the denoiser for colour images of any size (0.56 M parameters), untrained."""
    return _DnCNN(channels=3, depth=17, width=64)
