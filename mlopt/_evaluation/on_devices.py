"""`OnDevices`: what a node reads from other devices of this process travels to the node's own.

    y = f(x'),    x' = x on the device of y,    dx = dx' on the device of x

A copy is a function of autograd: gradients of any order pass it, and arrive where x is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .._containers.containers import rebuilt
from .._graph.moving import moves
from .._graph.node import Node
from .._graph.problem import Problem
from .._graph.signal import Signal, join, split
from .._tensors import Tensors
from .._variable import Variable
from ..distributed.traffic import Traffic, purpose
from .point import Point

__all__ = ["OnDevices"]


class OnDevices:
    """Brings the points of evaluations to the devices of their nodes.

    A value travels to a device once a step, whoever reads it there, as long as it is not written.

    Args:
        devices: of all nodes.
        at: of the variables of their problems.

    Attributes:
        traffic: what has travelled, by what it was.
    """

    def __init__(
        self, devices: Mapping[Node, torch.device], at: Mapping[Variable, torch.device]
    ) -> None:
        self._devices, self._at = devices, at
        self._known: dict[Any, tuple[Any, Any]] = {}  # of this step
        self.traffic = Traffic()

    def __call__(
        self, node: Node, point: Point, parameters: Callable[[Variable], dict[str, Tensor]]
    ) -> Point:
        """A point on the device of a node.

        Args:
            node: that is evaluated.
            point: where.
            parameters: of a variable, by name.

        Returns:
            The point.
        """
        device = self._devices[node]
        values, signals = dict(point.values), dict(point.signals)
        for source in (r.source for r in node.reads):
            if (at := self._place(source)) == device:
                continue
            if isinstance(source, Signal):
                parts = split(signals[source], source.name)
                parts = {k: self._there(t, at, device, "signals") for k, t in parts.items()}
                signals[source] = join(signals[source], parts)
            else:
                # What the point does not say stands in the module, elsewhere.
                own = {**parameters(source), **values.get(source, {})}
                values[source] = {k: self._there(t, at, device, "values") for k, t in own.items()}
        batch = self._batch(point.batch, device) if node.streams else point.batch
        return replace(point, values=values, signals=signals, batch=batch)

    def leaves(self, node: Node, source: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Leaves of what a node reads, on its device: one for all who read it there.

        Args:
            node: that reads them.
            source: a variable or signal.
            tensors: leaves where that is, by name.

        Returns:
            Those that stand for them; what has no gradient is as it is.
        """
        device, at = self._devices[node], self._place(source)
        if at == device:
            return tensors
        what = "signals" if isinstance(source, Signal) else "values"

        def leaf(t: Tensor) -> Tensor:
            copy = self._there(t.detach(), at, device, what).detach().requires_grad_()
            self._known["sent", _memory(copy), device] = copy, copy
            return copy

        return {
            k: self._once(("leaf", id(t)), t, device, functools.partial(leaf, t))
            if t.requires_grad
            else t
            for k, t in tensors.items()
        }

    def away(self, node: Node, source: Any) -> torch.device | None:
        """The device on which cotangents from a node arrive; None if it is that of the source."""
        device = self._devices[node]
        return None if device == self._place(source) else device

    def back(self, node: Node, cotangents: Tensors) -> Tensors:
        """Cotangents on the device of the node that they are for.

        Args:
            node: a problem or signal.
            cotangents: by key.

        Returns:
            The same.
        """
        device = self._devices[node]
        return {k: self._sent(t, device, "cotangents") for k, t in cotangents.items()}

    def buffers(self, node: Node, source: Any, copies: list[Any]) -> list[Any]:
        """Copies of the buffers of what a node reads, on its device.

        Args:
            node: that is evaluated.
            source: whose buffers they are.
            copies: they.

        Returns:
            The same, where they are there.
        """
        device = self._devices[node]
        if isinstance(node, Problem) and source in node.over:
            return copies
        if not isinstance(source, Variable) or self._place(source) == device:
            return copies
        return [self._sent(t, device, "buffers") if isinstance(t, Tensor) else t for t in copies]

    def _there(self, tensor: Tensor, at: torch.device, device: torch.device, what: str) -> Tensor:
        """A tensor of one device on another, with its place in the graph."""
        if ("sent", _memory(tensor), device) in self._known:
            return tensor
        known = self._once(
            _memory(tensor), tensor, device, lambda: self._sent(tensor, device, what)
        )
        if not (tensor.requires_grad and torch.is_grad_enabled()):
            return known
        return self._once(
            ("connected", id(tensor), tensor._version), tensor, device,
            lambda: _Sent.apply(tensor, known, at, device, self.traffic),
        )  # fmt: skip

    def release(self) -> None:
        """Let the copies of a step go."""
        self._known.clear()

    def _place(self, source: Any) -> torch.device:
        """Where a variable or signal is."""
        return self._devices[source] if isinstance(source, Signal) else self._at[source]

    def _batch(self, batch: Any, device: torch.device) -> Any:
        def leaf(held: Any) -> Any:
            if isinstance(held, Tensor) and held.device == _actual(device):
                return held
            if isinstance(held, Tensor):
                return self._there(held, held.device, device, "batches")
            return held.to(device) if moves(held) else held

        return self._once(
            ("batch", id(batch)), batch, device, lambda: rebuilt(batch, leaf, whole=moves)
        )

    def _once(self, what: Any, source: Any, device: torch.device, send: Callable[[], Any]) -> Any:
        """What has been sent in this step already, or is now."""
        if (what, device) not in self._known:  # with the source, whose memory stays its own
            self._known[what, device] = source, send()
        return self._known[what, device][1]

    def _sent(self, tensor: Tensor, device: torch.device, what: str) -> Tensor:
        with purpose(what):
            self.traffic.note(tensor)
        return _copy(tensor.detach(), device)


class _Sent(torch.autograd.Function):
    """A copy on another device, that has been made; its adjoint copies the other way."""

    @staticmethod
    def forward(
        ctx: Any, tensor: Tensor, there: Tensor, at: torch.device, to: torch.device, traffic: Any
    ) -> Any:
        ctx.way = to, at if _actual(at) == tensor.device else tensor.device, traffic
        return there.detach()

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        _, back, traffic = ctx.way
        with purpose("cotangents"):
            traffic.note(cotangent)
        here = _copy(cotangent.detach(), back)
        if torch.is_grad_enabled() and cotangent.requires_grad:
            here = _Sent.apply(cotangent, here, *ctx.way)
        return here, None, None, None, None


@functools.cache
def _actual(device: torch.device) -> torch.device:
    """What tensors on a device say that they are on."""
    return torch.empty(0, device=device).device


def _copy(tensor: Tensor, device: torch.device) -> Tensor:
    # Who reads on the host does not wait by itself until a device has written there.
    return tensor.to(device, non_blocking=device.type != "cpu", copy=True)


def _memory(tensor: Tensor) -> Any:
    """The same for tensors of the same numbers in the same memory."""
    try:
        start = tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # sparse ones, and those of transformations
        return "alone", id(tensor), tensor._version
    version = 0 if tensor.is_inference() else tensor._version
    layout = tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype
    return "memory", start, tensor.device, version, layout
