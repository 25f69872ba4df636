"""Training methods: each a small spec with its hyper-parameters and its `loss`; their union is the registry."""

from typing import Annotated

from pydantic import Field

from rspipe.methods.advmacer import AdvMacer
from rspipe.methods.gaussian import Gaussian
from rspipe.methods.macer import MACER
from rspipe.methods.smoothadv import SmoothAdv

MethodSpec = Annotated[Gaussian | SmoothAdv | MACER | AdvMacer, Field(discriminator="name")]

__all__ = ["MACER", "AdvMacer", "Gaussian", "MethodSpec", "SmoothAdv"]
