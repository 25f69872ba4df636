"""The optimizer: torch's own steps."""

import pytest
import torch
from torch import nn

from rspipe.training.sgd import SGD


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3), nn.Linear(7, 7))


@pytest.mark.parametrize(("momentum", "weight_decay"), [(0.9, 1e-3), (0.9, 0.0), (0.0, 1e-3)])
def test_steps_are_those_of_torchs_optimizer_bit_for_bit_also_where_they_go_on(
    momentum: float, weight_decay: float
) -> None:
    # The last layer gets no gradient.
    ours, theirs = network(), network()
    steps = SGD(ours.parameters(), momentum=momentum, weight_decay=weight_decay)
    expected = torch.optim.SGD(theirs.parameters(), lr=1.0, momentum=momentum, weight_decay=weight_decay)
    for step in range(6):
        if step == 3:
            before, kept = steps, steps.momenta
            steps = SGD(ours.parameters(), momentum=momentum, weight_decay=weight_decay)
            steps.restore(kept)
            kept = [None if one is None else one.clone() for one in kept]
        lr = 0.1 / (1 + step)
        expected.param_groups[0]["lr"] = lr
        inputs = torch.rand((8, 5), generator=torch.Generator().manual_seed(step))
        for optimizer, trained in ((steps, ours), (expected, theirs)):
            optimizer.zero_grad()
            trained[:3](inputs).square().sum().backward()
        steps.step(lr=lr)
        expected.step()
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(one, other)
    # What was gone on from is as it was.
    for one, other in zip(before.momenta, kept, strict=True):
        assert other is None if one is None else torch.equal(one, other)
