"""What networks answer to fixed inputs."""

import torch
from torch import Tensor, nn

from rspipe.networks.answers import answers_as_before, answers_of
from rspipe.networks.architectures import build_network

SHAPE = (1, 8, 8)


class Drawing(nn.Module):
    """Draws at random in eval mode, too."""

    def forward(self, x: Tensor) -> Tensor:
        """Return random logits."""
        return torch.randn(len(x), 10)


def test_a_network_answers_as_before_in_whichever_mode_it_is() -> None:
    network = build_network("cifar_resnet8", classes=10, seed=0).train()
    answers = answers_of(network, (3, 32, 32))
    assert answers is not None
    assert [len(row) for row in answers] == [10, 10]
    assert network.training
    assert answers_as_before(build_network("cifar_resnet8", classes=10, seed=0).eval(), (3, 32, 32), answers)


def test_another_seed_another_layer_and_another_number_of_classes_are_found() -> None:
    answers = answers_of(build_network("digits_mlp", classes=10, seed=0), SHAPE)
    same = build_network("digits_mlp", classes=10, seed=0)
    assert answers_as_before(same, SHAPE, answers)
    assert not answers_as_before(build_network("digits_mlp", classes=10, seed=1), SHAPE, answers)
    assert not answers_as_before(build_network("digits_mlp", classes=4, seed=0), SHAPE, answers)
    assert not answers_as_before(nn.Sequential(same, nn.Hardtanh(-0.01, 0.01)), SHAPE, answers)


def test_what_changes_outside_of_the_range_of_pixels_alone_is_found() -> None:
    class Clamping(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.clamp(0, 1))  # type: ignore[no-any-return]

    network = build_network("digits_cnn", classes=10, seed=0)
    assert not answers_as_before(Clamping(*network), SHAPE, answers_of(network, SHAPE))


def test_roundings_are_no_change() -> None:
    network = build_network("digits_mlp", classes=10, seed=0)
    answers = answers_of(network, SHAPE)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1 + 1e-4)
    assert answers_as_before(network, SHAPE, answers)


def test_nothing_is_noted_of_a_network_whose_answers_would_differ_elsewhere() -> None:
    network = build_network("digits_mlp", classes=10, seed=0)
    assert answers_of(Drawing(), SHAPE) is None
    assert answers_of(nn.Sequential(network, nn.Softplus(beta=0.0)), SHAPE) is None
    assert answers_of(network.to(torch.bfloat16), SHAPE) is None
    assert answers_as_before(Drawing(), SHAPE, None)


def test_a_network_that_draws_at_random_goes_on_as_if_it_had_not_been_asked() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    answers_of(Drawing(), SHAPE)
    assert torch.equal(torch.rand(3), expected)
