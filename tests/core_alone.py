"""The library with numpy, scipy and torch alone: run by the Python of an environment that has nothing else."""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

import rspipe


def linear() -> nn.Module:
    """Return a classifier of 2x2 images whose smoothed radius is known: the distance to its hyperplane."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([[0.0] * 4, [1.0, 0.0, 0.0, 0.0]]))
        network[1].bias.copy_(torch.tensor([0.0, -0.5]))
    return network


def certification() -> None:
    image = torch.full((1, 2, 2), 0.9)
    certificate = rspipe.certify(linear(), image, sigma=0.25, n0=100, n=2000)
    assert certificate.prediction == 1
    assert 0.25 < certificate.radius < 0.4
    assert rspipe.predict(linear(), image, sigma=0.25, n=100) == 1
    assert rspipe.predict(linear(), torch.full((1, 2, 2), 0.5), sigma=0.25, n=100) == rspipe.ABSTAIN


def comparisons() -> None:
    credit = np.random.default_rng(0).random((3, 50))
    result = rspipe.difference(credit + 0.1, credit[:2])
    assert result.procedures is not None
    assert result.seeds == (3, 2)
    assert np.isclose(result.models.estimate, 0.1 + credit.mean() - credit[:2].mean())
    assert rspipe.contrast(credit[0], (), population=50).models.se == 0


def bounds_and_metrics() -> None:
    lower, upper = (
        rspipe.clopper_pearson_lower(990, 1000, alpha=0.001),
        rspipe.clopper_pearson_upper(10, 1000, alpha=0.001),
    )
    assert np.isclose(lower, 1 - upper)
    radius = np.array([float(rspipe.certified_radius(lower, sigma=0.5)), 0.3])
    correct = np.array([True, False])
    assert np.isclose(rspipe.average_certified_radius(radius, correct), radius[0] / 2)
    assert list(rspipe.certified_accuracy(radius, correct, [0.0, 9.0])) == [0.5, 0.0]


def networks(folder: Path) -> None:
    from rspipe.networks.architectures import build_network

    network, images = build_network("cifar_resnet20", classes=10, seed=0).eval(), torch.rand(4, 3, 32, 32)
    path = folder / "checkpoint.pt"
    torch.save({"state_dict": network.state_dict()}, path)
    loaded = rspipe.load_checkpoint(path, architecture="cifar_resnet20", classes=10, normalization="architecture")
    labels = loaded(images).argmax(1)
    assert rspipe.check_clean_accuracy(loaded, images, labels, expected=1.0, tolerance=0.0) == 1.0
    assert torch.equal(rspipe.deploy(loaded, precision="float32")(images).argmax(1), labels)


def data_sets() -> None:
    images, labels = torch.stack([torch.full((1, 2, 2), 0.9), torch.full((1, 2, 2), 0.1)]), [1, 0]
    for rule in ("fixed", "planned", "radius_grid"):
        result = rspipe.certify_dataset([linear(), linear()], images, labels, sigma=0.25, n=2000, rule=rule)
        assert result.prediction.tolist() == labels
        assert 0.2 < result.acr < 0.4
        assert len(result.to_tsv().splitlines()) == 3
        assert "tabular" in result.to_latex()
        assert "member 1" in repr(result)
    for missing in ("to_pandas", "plot"):
        message = ""
        try:
            getattr(result, missing)()
        except ImportError as error:
            message = str(error)
        assert "which is not installed; pip install 'rspipe[pipeline]'" in message
    moments = rspipe.margin_moments([linear(), linear()], images, labels, sigma=0.25, draws=50)
    assert rspipe.solve_weights(moments.mean[:, 0], moments.covariance[:, 0], method="uniform").weights.tolist() == [
        0.5,
        0.5,
    ]


def training() -> None:
    logits = torch.randn(3, 8, 5, requires_grad=True)
    rspipe.macer_loss(logits, torch.tensor([0, 1, 2]), sigma=0.25).backward()
    assert torch.isfinite(logits.grad).all()


def weights() -> None:
    assert list(rspipe.solve_weights([1.0, 2.0], np.eye(2), method="uniform").weights) == [0.5, 0.5]


if __name__ == "__main__":
    torch.manual_seed(0)
    certification()
    comparisons()
    bounds_and_metrics()
    networks(Path(sys.argv[1]))
    data_sets()
    training()
    weights()
