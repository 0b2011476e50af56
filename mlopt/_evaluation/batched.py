"""Several nodes of one shape evaluated as one, on stacked tensors."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from .._errors import GraphError, exhausted
from .._graph.node import Node
from .._graph.signal import Signal, join, split
from .._variable import Variable
from .binding import Binding, marks_of
from .copies import separate
from .point import Evaluator, Point

__all__ = ["NotStackable", "evaluate_as_one"]


_NOTHING = object()  # where an attribute is not set


class NotStackable(Exception):
    """Several evaluations cannot be made as one.

    Attributes:
        lasting: whether that is the function's nature, and not that of these batches.
    """

    def __init__(self, reason: str, lasting: bool) -> None:
        super().__init__(reason)
        self.lasting = lasting


@dataclass
class _Columns:
    """What goes into a batched call: tensors, and along which dimension each is batched."""

    tensors: list[Tensor] = field(default_factory=list)
    dims: list[int | None] = field(default_factory=list)

    def add(self, column: Sequence[Tensor], apart: bool = False) -> int:
        """Take one tensor of each node; what is the same for all is not stacked.

        Args:
            column: the tensors.
            apart: stack in any case, because the call may write to them.

        Returns:
            The place of the result.

        Raises:
            NotStackable: they differ in shape or type.
        """
        first = column[0]
        if not apart and all(_same(first, t) for t in column[1:]):
            self.tensors.append(first)
            self.dims.append(None)
        elif any(t.shape != first.shape or t.dtype != first.dtype for t in column):
            shapes = ", ".join(str(tuple(t.shape)) for t in column)
            raise NotStackable(f"tensors of the shapes {shapes}.", lasting=False)
        else:
            self.tensors.append(torch.stack(list(column)))
            self.dims.append(0)
        return len(self.tensors) - 1


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two are one tensor; with a gradient, only if that is one too."""
    if a is b:
        return True
    return (
        not (a.requires_grad or b.requires_grad)
        and a.data_ptr() == b.data_ptr()
        and (a.shape, a.stride(), a.dtype) == (b.shape, b.stride(), b.dtype)
    )


def evaluate_as_one(
    evaluator: Evaluator,
    nodes: Sequence[Node],
    points: Sequence[Point],
    *,
    counted: Sequence[Node] | None = None,
    owned: bool = False,
    twice: bool = False,
    wide: bool = False,
    randomness: str = "different",
) -> tuple[list[Any], list[dict[Any, list[Tensor]]]]:
    """Evaluate nodes of one shape, each at its point, by one call of the first one's function.

    As with `Evaluator`, nothing of it can be seen afterwards.

    Args:
        evaluator: of the graph.
        nodes: problems or signals.
        points: one for each; the seed is that of the first.
        counted: the nodes for which the evaluation is asked; by default all.
        owned: whether the buffers of the nodes' own variables are written for good.
        twice: the result will be differentiated twice.
        wide: in float32, whatever the precision of the nodes.
        randomness: "different" for each node, or the "same".

    Returns:
        What each function returned, and for each node the buffers that it wrote, by owner.

    Raises:
        GraphError: attributes of parameters differ from member to member.
        NotStackable: torch cannot run it so, or tensors have other shapes than those of the first.
    """
    call = _Call(evaluator, nodes, points, owned, wide)
    first = nodes[0]
    region = evaluator.regions.get(first, nullcontext) if twice else nullcontext
    if 0 not in call.columns.dims:
        raise NotStackable("they read nothing that differs.", lasting=True)
    run = torch.func.vmap(call, in_dims=(call.columns.dims,), randomness=randomness)
    with evaluator.generators, region():
        evaluator.generators.seed(points[0].seed)
        torch.clear_autocast_cache()  # it would hand out casts of values that have changed
        try:
            outputs, buffers = run(call.columns.tensors)
        except Exception as error:  # the user's function under vmap may raise anything
            if exhausted(error):
                raise
            reason = next((line for line in str(error).splitlines() if line.strip()), repr(error))
            raise NotStackable(f"{reason.strip().rstrip('.')}.", lasting=True) from error
    evaluator.count.update(nodes if counted is None else counted)
    # one unbind each: its backward is one stack
    parts = list(zip(*(t.unbind(0) for t in outputs), strict=True)) or [()] * len(nodes)
    written: list[dict[Any, list[Tensor]]] = [{} for _ in nodes]
    for sources, tensors in zip(call.owners, buffers, strict=True):
        for k, source in enumerate(sources):
            written[k][source] = [t[k].detach() for t in tensors]
    return [call.result(p) for p in parts], written


class _Call:
    """The first node's function, with batched tensors in the places of its own.

    Args:
        evaluator: of the graph.
        nodes: to be evaluated.
        points: where.
        owned: whether written buffers are returned.
        wide: in float32.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        nodes: Sequence[Node],
        points: Sequence[Point],
        owned: bool,
        wide: bool,
    ) -> None:
        self.fn = nodes[0].fn if wide else evaluator.precision.around(nodes[0], nodes[0].fn)
        self.evaluator, self.node, self.point = evaluator, nodes[0], points[0]
        self.columns = _Columns()
        self._modules: list[Binding] = []
        #: (dictionary, key) of a module -> the place of what is put there
        self._slots: list[tuple[dict[str, Any], str, int]] = []
        self._lone: dict[Variable, int] = {}
        self._signals: dict[Signal, dict[str, int]] = {}
        self._buffers: list[list[tuple[dict[str, Any], str]]] = []
        self._marks: list[tuple[int, dict[str, Any]]] = []  # what is set on the tensors there
        #: for each module whose written buffers are kept, its owner in each node
        self.owners: list[tuple[Any, ...]] = []
        for sources in zip(*(n.reads for n in nodes), strict=True):
            self._add([r.source for r in sources], points)
        for sources in zip(*(evaluator.bound(n) for n in nodes), strict=True):
            self._add_module(sources, points, owned and _owns(nodes[0], sources[0]))
        self._add_batch([p.batch for p in points])

    def _add(self, sources: Sequence[Any], points: Sequence[Point]) -> None:
        """A signal, or a variable that is one tensor."""
        head = sources[0]
        if isinstance(head, Signal):
            parts = [split(p.signals[s], s.name) for p, s in zip(points, sources, strict=True)]
            if any(p.keys() != parts[0].keys() for p in parts):
                raise NotStackable("signals of different parts.", lasting=False)
            self._signals[head] = {k: self.columns.add([p[k] for p in parts]) for k in parts[0]}
        elif isinstance(head.value, Tensor):
            self._lone[head] = self.columns.add(
                [p.values.get(s, {}).get("", s.value) for p, s in zip(points, sources, strict=True)]
            )
            self._mark(self._lone[head], [s.name for s in sources], [*map(_value_marks, sources)])

    def _add_module(self, sources: Sequence[Any], points: Sequence[Point], owned: bool) -> None:
        """The parameters of a module, and copies of its buffers."""
        bindings = [self.evaluator.bindings[s] for s in sources]
        self._modules.append(bindings[0])
        for name, slots in bindings[0].parameters.items():
            column = []
            for source, binding, point in zip(sources, bindings, points, strict=True):
                slot, key = binding.parameters[name][0]
                column.append(point.values.get(source, {}).get(name, slot[key]))
            place = self.columns.add(column)
            names = [f"{s.name}.{name}" for s in sources]
            self._mark(place, names, [b.marks.get(name, {}) for b in bindings])
            self._slots.extend((slot, key, place) for slot, key in slots)
        held = [b.held() for b in bindings]
        if not all(map(separate, held)):
            raise NotStackable("buffers that share memory, or have no values yet.", lasting=False)
        for (slot, key), column in zip(bindings[0].buffers, zip(*held, strict=True), strict=True):
            self._slots.append((slot, key, self.columns.add(column, apart=True)))
        if owned and held[0]:
            self.owners.append(tuple(sources))
            self._buffers.append(bindings[0].buffers)

    def _mark(self, place: int, names: Sequence[str], marks: Sequence[dict[str, Any]]) -> None:
        """The attributes that the user has given to parameters, which must be the same for all."""
        if not any(marks):
            return
        # A tensor there is what somebody keeps for this very parameter, an optimizer say.
        told = [{k: v for k, v in own.items() if not isinstance(v, Tensor)} for own in marks]
        for name, own in zip(names, told, strict=True):
            for key in told[0].keys() | own.keys():
                here, there = own.get(key, _NOTHING), told[0].get(key, _NOTHING)
                if here is not there and (type(here) is not type(there) or here != there):
                    raise GraphError(
                        f"Stack: {name} and {names[0]} differ in the attribute .{key}, "
                        f"{_shown(here)} and {_shown(there)}, and one function is called for both. "
                        "Set it alike, or list the members without a stack."
                    )
        if told[0]:
            self._marks.append((place, told[0]))

    def _add_batch(self, batches: Sequence[Any]) -> None:
        flat = [tree_flatten(b) for b in batches]
        leaves, self._spec = flat[0]
        if any(spec != self._spec for _, spec in flat):
            raise NotStackable("batches of different structure.", lasting=False)
        self._batch: list[Any] = list(leaves)  # what is no tensor is passed as it is
        self._batched: dict[int, int] = {}
        for i, column in enumerate(zip(*(leaves for leaves, _ in flat), strict=True)):
            if all(isinstance(t, Tensor) for t in column):
                self._batched[i] = self.columns.add(column)
            elif any(x is not column[0] and x != column[0] for x in column):
                raise NotStackable("batches that differ in what is no tensor.", lasting=False)

    def __call__(self, tensors: list[Tensor]) -> tuple[list[Tensor], list[list[Tensor]]]:
        values = {v: {"": tensors[i]} for v, i in self._lone.items()}
        signals = {
            s: join(self.point.signals[s], {k: tensors[i] for k, i in parts.items()})
            for s, parts in self._signals.items()
        }
        batch = list(self._batch)
        for i, place in self._batched.items():
            batch[i] = tensors[place]
        point = Point(values, signals, tree_unflatten(batch, self._spec), self.point.seed)
        for place, marks in self._marks:
            vars(tensors[place]).update(marks)
        swap = self.evaluator.open()
        try:
            for binding in self._modules:
                swap.note_modes(binding.parts)
            for slot, key, place in self._slots:
                swap.put(slot, key, tensors[place])
            result = self.fn(*self.evaluator.arguments(self.node, point, swap)[0])
            buffers = [[slot[key] for slot, key in slots] for slots in self._buffers]
        finally:
            self.evaluator.shut()
        leaves, self._result_spec = tree_flatten(result)
        self._is_tensor = [isinstance(x, Tensor) for x in leaves]
        self._constants = [None if isinstance(x, Tensor) else x for x in leaves]
        return [x for x in leaves if isinstance(x, Tensor)], buffers

    def result(self, parts: Sequence[Tensor]) -> Any:
        """What the function returned, with one node's tensors."""
        tensors = iter(parts)
        flat = [
            next(tensors) if is_tensor else constant
            for constant, is_tensor in zip(self._constants, self._is_tensor, strict=True)
        ]
        return tree_unflatten(flat, self._result_spec)


def _value_marks(variable: Variable) -> dict[str, Any]:
    return marks_of(variable.value)


def _shown(value: Any) -> str:
    return "none" if value is _NOTHING else repr(value)


def _owns(node: Node, source: Any) -> bool:
    return source is node or source in getattr(node, "over", ())
