"""Hypergradient methods: one file per way a gradient passes through a lower solution."""

from .frozen import Frozen
from .implicit import Implicit
from .one_step import OneStep
from .sama import Sama
from .stop_gradient import StopGradient
from .unrolled import Unrolled
from .zeroth_order import ZerothOrder

__all__ = [
    "Frozen",
    "Implicit",
    "OneStep",
    "Sama",
    "StopGradient",
    "Unrolled",
    "ZerothOrder",
]
