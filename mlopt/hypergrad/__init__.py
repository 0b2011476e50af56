"""Hypergradient methods: one file per way a gradient passes through a lower solution."""

from .frozen import Frozen
from .one_step import OneStep
from .stop_gradient import StopGradient

__all__ = ["Frozen", "OneStep", "StopGradient"]
