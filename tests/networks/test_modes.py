"""Facts about how networks are run."""

import torch
from torch import nn

from rspipe.networks.modes import device_of


def test_a_network_is_where_its_parameters_are_else_where_its_buffers_are_else_anywhere() -> None:
    grey = nn.Module()
    grey.register_buffer("mean", torch.zeros(1, device="meta"))
    assert device_of(nn.Flatten()) is None
    assert device_of(nn.Flatten(), grey) == torch.device("meta")
    assert device_of(grey, nn.Linear(1, 1)) == torch.device("cpu")
