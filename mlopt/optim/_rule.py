"""The interface of update rules."""

from __future__ import annotations

import abc
from typing import Any

from torch import Tensor

from .._tensors import Key, Tensors

__all__ = ["AbstractUpdate", "groups"]


class AbstractUpdate(abc.ABC):
    """What one `step()` of a torch optimizer does, as a function.

        look_ahead(g) = w + the change that step() would make with gradient g
        derivative(g, c) = D c,    D = - d look_ahead / d g

    The optimizer is read, never written: neither its state nor a parameter changes. Its numbers are
    constants, those in tensors as well.
    """

    @abc.abstractmethod
    def look_ahead(self, optimizer: Any, parameters: Tensors, gradient: Tensors) -> Tensors:
        """The value that `step()` would give.

        Args:
            optimizer: the user's optimizer.
            parameters: its parameters by key.
            gradient: by key; parameters without one are not moved.

        Returns:
            Tensors by key of `gradient`, for the parameters that the optimizer holds.
        """

    @abc.abstractmethod
    def derivative(
        self, optimizer: Any, parameters: Tensors, gradient: Tensors, cotangent: Tensors
    ) -> Tensors:
        """D c, the cotangent through the update (D is diagonal).

        Args:
            optimizer: the user's optimizer.
            parameters: its parameters by key.
            gradient: by key.
            cotangent: c, by some of the keys of `gradient`.

        Returns:
            Tensors by key of `cotangent`, for the parameters that the optimizer holds.
        """


def groups(
    optimizer: Any, parameters: Tensors, wanted: Tensors
) -> list[tuple[dict[str, Any], list[Key], list[Tensor]]]:
    """Each param group with the wanted keys and their parameters in it."""
    key_of = {id(parameters[k]): k for k in wanted}
    found = []
    for group in optimizer.param_groups:
        members = [p for p in group["params"] if id(p) in key_of]
        if members:
            found.append((group, [key_of[id(p)] for p in members], members))
    return found
