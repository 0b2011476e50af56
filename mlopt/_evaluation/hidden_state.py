"""`HiddenState`: what one evaluation leaves to the next, past parameters and buffers."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .._errors import GraphError
from .._tensors import continuous
from .autograd_graph import leaves
from .purity import change
from .spots import TENSORS, VALUES, Spot, spots

__all__ = ["HiddenState"]

_SMALL = 2**16  # numbers of a tensor or array that is copied
_DIGITS = 1e-6  # of a number that was computed in single precision

#: An attribute of what stands for variables and for what was computed from them: checks know it.
_MARK = "_of_a_check"


class _Then(NamedTuple):
    """A value as it was; of a tensor without the graph that it had."""

    spot: Spot
    of: int  # the id of a tensor or array
    version: int
    copy: Any


class _StandIn(NamedTuple):
    """What stands in a tensor's place, and can be told in the graph of what reads it."""

    spot: Spot
    leaf: Tensor
    tensor: Tensor
    original: Tensor | None


class HiddenState:
    """What a function can keep, from one evaluation to the next, in attributes and containers.

    Two laws say what may be there. A tensor that an evaluation has computed from variables is read
    by no other one: it follows no other values, and its graph is gone. So others of the same values
    stand in the places of such tensors, and nothing may depend on them; what is written anew before
    it is read never meets them. And what modules hold after two evaluations at one point is the
    same: what is not, counts evaluations, of which a step makes any number.

    Args:
        function: the function.
        modules: what it is given, by name.
        own: ids of the variables' own tensors.
        leaves: what stands for them in the evaluations to come.
    """

    def __init__(
        self,
        function: Any,
        modules: Iterable[tuple[str, nn.Module]],
        own: Collection[int],
        leaves: Iterable[Tensor],
    ) -> None:
        self._function, self._modules, self._own = function, list(modules), own
        for leaf in leaves:
            setattr(leaf, _MARK, True)
        self._then: dict[str, _Then] = {}
        self._stand_ins: list[_StandIn] = []
        self._put_back: list[Tensor] = []
        self._left: set[str] = set()

    def begin(self, *, keep: bool = True) -> None:
        """Before an evaluation: note what is there, and let stand-ins take their places.

        Args:
            keep: put the tensors back in `end`, if nobody has written others; else let them go, but
                for those that were put back before.
        """
        self.end()
        self._stand_ins, before, self._then = [], self._then, {}
        for spot in self._now(TENSORS if keep else VALUES).values():
            value = spot.value
            computed = type(value) is Tensor and value.grad_fn is not None
            if computed and spot.put and self._is_left(value):
                again = keep or any(value is t for t in self._put_back)
                value = self._stand_in(spot, again)
            self._then[spot.name] = _seen(spot._replace(value=value), before.get(spot.name))

    def _now(self, kinds: tuple[type, ...] = VALUES) -> dict[str, Spot]:
        return {s.name: s for s in spots(self._function, self._modules, kinds)}

    def _is_left(self, value: Tensor) -> bool:
        """Whether it was computed from variables."""
        return any(id(t) in self._own or hasattr(t, _MARK) for t in leaves(value))

    def _stand_in(self, spot: Spot, keep: bool) -> Tensor:
        leaf, tensor = _traceable(spot.value)
        if not keep:
            self._left.add(spot.name)
        self._stand_ins.append(_StandIn(spot, leaf, tensor, spot.value if keep else None))
        assert spot.put is not None
        spot.put(spot.key, tensor)
        return tensor

    def any(self) -> bool:
        """Whether anything stands in the place of another."""
        return bool(self._stand_ins)

    def check_read(self, name: str, result: Any, *, detached: bool = False) -> None:
        """Whether a result depends on what stands in the places of others.

        Args:
            name: of the node.
            result: of an evaluation.
            detached: whether its point requires no gradient: what does is kept somewhere then.

        Raises:
            GraphError: it does.
        """
        if not (self._stand_ins or detached):
            return
        met = list(leaves(result))
        left = [s.spot.name for s in self._stand_ins if any(t is s.leaf for t in met)]
        if left or (detached and any(hasattr(t, _MARK) for t in met)):
            what = " and ".join(left[:3]) or "a tensor in a cache that nobody sees"
            raise GraphError(
                f"{name} reads {what}, which another evaluation has computed and left there. It "
                "does not follow the values at which the engine evaluates, and passes no gradient "
                "on to them. Compute it in each evaluation, before it is read: call the module "
                "first, keep no result of an earlier call."
            )

    def end(self) -> None:
        """Put back what is to be kept, if nobody has written anew what stands in its place."""
        now = self._now(TENSORS) if self._stand_ins else {}
        for stood, _, tensor, original in self._stand_ins:
            spot = now.get(stood.name)
            if original is not None and spot is not None and spot.value is tensor:
                stood.put(stood.key, original)  # type: ignore[misc]
                self._put_back.append(original)

    def mark(self) -> None:
        """What the evaluations have left is read by other functions neither: have them know it."""
        now = self._now(TENSORS) if self._left else {}
        for spot in (now[name] for name in self._left if name in now):
            if spot.put is not None and type(spot.value) is Tensor and continuous(spot.value):
                spot.put(spot.key, _traceable(spot.value)[1])

    def moved(self) -> list[str]:
        """What modules hold that has other values than at the last `begin`, by name."""
        now = self._now()
        names: list[str] = []
        for name in {**self._then, **now}:
            then, spot = self._then.get(name), now.get(name)
            of_module = (spot or then.spot).of_module  # type: ignore[union-attr]
            if of_module and (then is None or spot is None or _differs(then, spot.value)):
                names.append(name)
        return [x for x in names if not any(x.startswith((f"{n}[", f"{n}.")) for n in names)]


@torch.enable_grad()
def _traceable(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """A leaf of the same values, and what was computed from it, which may be written in place."""
    leaf = tensor.detach().requires_grad_()
    setattr(leaf, _MARK, True)
    return leaf, leaf.clone()


def _seen(spot: Spot, before: _Then | None) -> _Then:
    """What is not a module's is not compared, and not copied."""
    value = spot.value
    if isinstance(value, np.ndarray) and spot.of_module:
        return _Then(spot, id(value), 0, value.copy() if value.size <= _SMALL else None)
    if type(value) is not Tensor:
        return _Then(spot, 0, 0, None)
    held, version = value.detach(), 0 if value.is_inference() else value._version
    small = value.layout is torch.strided and value.numel() <= _SMALL
    # A large one that is written in place each time may hold the same each time.
    written = before is not None and before.of == id(value) and before.version < version
    copy = held.clone() if spot.of_module and (small or written) else None
    return _Then(spot._replace(value=held), id(value), version, copy)


def _differs(then: _Then, now: Any) -> bool:
    was = then.spot.value if then.copy is None else then.copy
    if type(was) is not type(now):
        return True
    if type(now) is Tensor:
        if was.dtype != now.dtype or was.device != now.device:
            return True
        if then.copy is None and then.of == id(now):
            return not now.is_inference() and now._version != then.version
        return change(was, now) > 0
    if isinstance(now, Tensor):  # of another class
        return False
    if isinstance(now, np.ndarray):
        if then.copy is None and then.of == id(now):
            return False
        return was.shape != now.shape or was.tobytes() != now.tobytes()
    if isinstance(now, float):
        return not (math.isclose(was, now, rel_tol=_DIGITS) or (was != was and now != now))
    return bool(was != now)
