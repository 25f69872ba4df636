"""Scikit-learn's handwritten digits, and networks trained on them under noise: what the other examples certify."""

from typing import NamedTuple

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn


class Part(NamedTuple):
    """Images [image, 1, 8, 8] in [0, 1] with their labels [image]."""

    images: Tensor
    labels: Tensor


def digits() -> tuple[Part, Part, Part]:
    """Return images to train on, 100 to solve weights on, and 40 to certify."""
    bunch = load_digits()
    images = torch.from_numpy(bunch.images).float().unsqueeze(1) / 16
    labels = torch.from_numpy(bunch.target)
    ends = ((140, len(labels)), (40, 140), (0, 40))
    train, held_out, test = (Part(images[first:last], labels[first:last]) for first, last in ends)
    return train, held_out, test


def trained(part: Part, *, sigma: float, seed: int, width: int = 64) -> nn.Module:
    """Return a small network trained on images under Gaussian noise (Cohen et al. 2019)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
        optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
        for _ in range(10):
            for batch in torch.randperm(len(part.labels)).split(64):
                noisy = part.images[batch] + sigma * torch.randn_like(part.images[batch])
                optimizer.zero_grad()
                nn.functional.cross_entropy(network(noisy), part.labels[batch]).backward()
                optimizer.step()
    return network.eval()
