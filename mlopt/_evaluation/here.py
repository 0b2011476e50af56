"""`Here`: what a rank has of an evaluation that is added up over ranks."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .._graph.node import Node
from .._tensors import Tensors
from ..distributed.shared_sums import Together
from .shares import Share

__all__ = ["Here"]


@dataclass(slots=True)
class Here:
    """An evaluation on this rank.

    Attributes:
        node: that is evaluated.
        share: what this rank has of its batch.
        found: the tensors that gradients go to, by key.
        leaves: that stand for them here.
        evaluation: that all ranks make together; None where one rank makes it.
        once: whether its graph is gone through once only.
    """

    node: Node
    share: Share
    found: Tensors
    leaves: list[Tensor]
    evaluation: Together | None
    once: bool
