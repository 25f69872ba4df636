"""Training methods: each a file with a small spec, its hyper-parameters and its `loss`; their union is the registry."""

from typing import Annotated

from pydantic import Field

from rspipe.training.methods.acr_weakness import ACRWeakness
from rspipe.training.methods.advmacer import AdvMacer
from rspipe.training.methods.catrs import CATRS
from rspipe.training.methods.consistency import Consistency
from rspipe.training.methods.gaussian import Gaussian
from rspipe.training.methods.macer import MACER
from rspipe.training.methods.smoothadv import SmoothAdv
from rspipe.training.methods.smoothadv_consistency import SmoothAdvConsistency
from rspipe.training.methods.smoothmix import SmoothMix
from rspipe.training.methods.stability import Stability

MethodSpec = Annotated[
    Gaussian
    | Stability
    | SmoothAdv
    | MACER
    | AdvMacer
    | Consistency
    | SmoothAdvConsistency
    | SmoothMix
    | CATRS
    | ACRWeakness,
    Field(discriminator="name"),
]
