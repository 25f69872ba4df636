"""Facts about several networks as one base classifier."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rspipe.errors import ModelError
from rspipe.networks.deployment import deploy
from rspipe.smoothing.ensemble import Ensemble


class Constant(nn.Module):
    """A network with the same logits for all inputs."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1)


@pytest.mark.parametrize("combination", ["average", "mme"])
@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_a_member_that_returns_no_scores_is_an_error_whatever_the_others_say(broken: float, combination: Any) -> None:
    ensemble = Ensemble([Constant(1.0, 0.0), Constant(0.0, broken)], combination=combination)
    with pytest.raises(ModelError, match=r"member 1 returned NaN or \+inf as a logit"):
        ensemble(torch.zeros(3, 2))


def test_an_ensemble_is_no_member_of_another() -> None:
    """It returns votes: two of three members would count as much as the third."""
    pair = Ensemble([Constant(1.0, 0.0), Constant(0.0, 1.0)])
    for inner in (pair, nn.Sequential(nn.Flatten(), pair), deploy(pair)):
        with pytest.raises(ValueError, match=r"model 1 is an Ensemble, .*; list its members instead"):
            Ensemble([Constant(1.0, 0.0), inner])
