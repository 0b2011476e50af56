"""Hypergradient methods: one file per way a gradient passes through a lower solution.

`interface.py` is what a method sees and must do; `products.py` and `curvature.py` are the second
derivatives that methods are made of; `derivatives.py` is the one place that goes back through a
graph.

Imports the ground, `solvers` and `optim`. Start reading at `interface.py`, then `one_step.py`.
"""

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
