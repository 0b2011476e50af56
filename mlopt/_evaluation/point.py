"""Evaluation at a point: values swapped in, randomness replayed, buffers and modes protected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .._containers.containers import Opened, opened, rebuilt
from .._errors import DataError, GraphError
from .._graph.node import Node
from .._graph.signal import Signal, heard
from .._replay import Generators
from .._tensors import grad_mode, requiring
from .._variable import Variable
from .aliases import apart_from, is_computed
from .binding import Binding, Swap, marks_of
from .copies import copied
from .handed import detached, same
from .one_shot import one_shot
from .places import Place
from .precision import Precisions
from .reads import tell_frozen
from .recall import Kept, Recall
from .slots import reads_whole
from .versions import versions, written_in_place

__all__ = ["Evaluator", "Point"]

_NOTHING: Mapping[str, Tensor] = {}


@dataclass(slots=True)
class Point:
    """Where a node is evaluated.

    Attributes:
        values: for each variable it reads, the tensors to swap in by parameter name (not all need
            be there).
        signals: the value of each signal it reads.
        batch: the last argument, if the node has data.
        seed: of every draw inside the evaluation.
    """

    values: Mapping[Variable, Mapping[str, Tensor]]
    signals: Mapping[Signal, Any]
    batch: Any
    seed: int


class Evaluator:
    """Calls the functions of a graph at points.

    Nothing of an evaluation can be seen afterwards: parameters, buffers and training modes are back
    in place, global generators stand where they stood. Buffers that it wrote are returned to who
    asks for them. What it reads it must not write.

    Args:
        nodes: of the graph.
        variables: of the graph.
        cuda: CUDA devices whose generators are replayed.
    """

    def __init__(
        self, nodes: Iterable[Node], variables: Iterable[Variable], cuda: tuple[int, ...]
    ) -> None:
        self.cuda = cuda
        self.generators = Generators(cuda)
        self.count: Counter[Node] = Counter()
        # how a node is evaluated that is differentiated twice, if not as it is
        self.regions: dict[Any, Callable[[], AbstractContextManager[Any]]] = {}
        # (node, twice) -> its function, or another that computes the same; None: its own
        self.choose: Callable[[Node, bool], Callable[..., Any]] | None = None
        self.precision = Precisions()
        self.parts: Any = None  #: how a step evaluates a node in parts, if it does: see `InParts`
        self.ranks: Any = None  #: likewise on several ranks: see `OnRanks`
        self.devices: Any = None  #: brings points to where nodes live: see `OnDevices`
        self.sharded = False  #: whether modules hold rows: see `Slots`
        self.recomputing: set[Node] = set()  #: of which parts are computed again going back
        self.differentiating: set[Node] = set()  #: inside: what they read requires gradients
        self.narrow: dict[Node, torch.dtype] = {}  #: in which low precision a node computes
        self.bent = False  #: whether a user's backward, or a hook, may give gradients' memory away
        self.recall = Recall()
        self._lent: list[tuple[Binding, list[Tensor]]] = []
        self._open: list[Swap] = []
        self._batches: dict[int, tuple[Any, Opened]] = {}  # of this step
        self.bindings: dict[Any, Binding] = {
            v: Binding.of(v.value) for v in variables if isinstance(v.value, nn.Module)
        }
        self._nodes = (*nodes,)
        for node in self._nodes:
            if isinstance(node, Signal) and node.state is not None:
                self.bindings[node] = Binding.of(node.state)
        self._places = {node: Place.of(node, self.bindings) for node in self._nodes}

    def __call__(
        self,
        node: Node,
        point: Point,
        *,
        owner: Iterable[Any] = (),
        keep: bool = False,
        twice: bool = False,
        start: Mapping[Any, list[Tensor]] | None = None,
        wide: bool = False,
    ) -> tuple[Any, dict[Any, list[Tensor]]]:
        """Evaluate a node.

        Args:
            node: a problem or signal.
            point: where.
            owner: variables (or the signal) whose buffers this evaluation writes for good.
            keep: the result's graph will outlive this call, so its buffers must not be used again.
            twice: the result will be differentiated twice.
            start: buffers to begin with, where they are not those that the modules hold.
            wide: in float32, whatever the precision of the node; see `Precisions.widens`.

        Returns:
            What the function returned, and for each owner with buffers those that it wrote.

        Raises:
            DataError: an iterator is in the batch.
            GraphError: the function wrote one of its arguments in place, or froze it.
            RuntimeError: the function's own.
        """
        self.count[node] += 1
        if self.recall.at is not None:
            self.recall.leave()
        if self.devices is not None:
            point = self.devices(node, point, self.parameters)
        inside = node in self.differentiating
        if inside:
            point = replace(point, values={v: requiring(t) for v, t in point.values.items()})
        place = self._places[node]
        swap = self.open(place.parts)
        lent: list[tuple[Any, Binding, list[Tensor]]] = []
        written: dict[Any, list[Tensor]] = {}
        again = node in self.recomputing and torch.is_grad_enabled()
        try:
            for source, binding in place.bound:
                values = point.values.get(source, _NOTHING)
                if binding.embeddings and (twice or any(not t.is_leaf for t in values.values())):
                    # A gradient that goes on from there is dense: an optimizer's alone is sparse.
                    for part in binding.embeddings:
                        swap.put(part, "sparse", False)
                if values:
                    swap.put_all(binding.parameters, values)
                    for name, marks in binding.marks.items():
                        if name in values:
                            vars(values[name]).update(marks)
                if binding.buffers:
                    copies = binding.scratch(start.get(source) if start else None)
                    lent.append((source, binding, copies))
                    if self.devices is not None:
                        copies = self.devices.buffers(node, source, copies)
                    if again:
                        swap.starts.append((binding, copied(copies)))
                    for (slot, key), copy in zip(binding.buffers, copies, strict=True):
                        swap.put(slot, key, copy)
            torch.clear_autocast_cache()  # it would hand out casts of values that have changed
            region = self.regions.get(node) if twice else None
            with self.generators:
                self.generators.seed(point.seed)
                arguments, read = self.arguments(node, point, swap)
                before = versions(read)
                function = self.choose(node, twice) if self.choose else node.fn
                if self.precision.dtypes and not wide:
                    function = self.precision.around(node, function)
                if self.sharded:
                    function = reads_whole(function, node.name)
                if inside or region is not None:
                    with region() if region else nullcontext(), grad_mode(True if inside else None):
                        result = function(*arguments)
                else:
                    result = function(*arguments)
            if versions(read) != before:
                raise GraphError(written_in_place(node, self.bindings))
            if not is_computed(result):
                for _, _, copies in lent:
                    read = read + copies
                # What was put into the batch's containers may be among it, and is taken out again.
                result = apart_from(rebuilt(result, same) if swap.opened else result, read)
            if inside and not torch.is_grad_enabled():
                result = rebuilt(result, detached)
            owners = tuple(owner)
            for source, binding, copies in lent:
                if source in owners:  # a module may assign its buffers anew instead of writing them
                    written[source] = [detached(t) for t in binding.held()]
                if source in owners or keep:
                    self._lent.append((binding, copies))
                else:
                    binding.take_back(copies)
            if again:
                self._remember(result, node, point, swap, region)
        except RuntimeError as error:
            tell_frozen(node, point.values, error)
            raise
        finally:
            self.shut()  # this one: those that it called have ended
        return result, written

    def evaluate(self, node: Node, point: Point, **how: Any) -> tuple[Any, dict[Any, list[Tensor]]]:
        """A call as a step makes it: on ranks or in parts, where it takes batches so."""
        way = self.ranks or self.parts
        return self(node, point, **how) if way is None else way(self, node, point, **how)

    def _remember(self, result: Any, node: Node, point: Point, swap: Swap, region: Any) -> None:
        """Have an evaluation's point entered again where its graph is gone through."""
        bound = self._places[node].bound
        values = [(binding, dict(point.values.get(s, _NOTHING))) for s, binding in bound]
        modes = [(binding, binding.modes()) for _, binding in bound]
        inputs = [*(t for tensors in point.values.values() for t in tensors.values())]
        inputs += [t for value in point.signals.values() for t in heard(value)]
        self.recall.keep(result, inputs, Kept(values, swap.starts, modes, region))

    def learn(self, other: Evaluator) -> None:
        """Take over what the checks have told another evaluator of the same graph."""
        self.regions.update(other.regions)
        self.recomputing |= other.recomputing
        self.differentiating |= other.differentiating
        self.narrow.update(other.narrow)
        self.bent |= other.bent
        self.precision = other.precision
        self.generators.foreign |= other.generators.foreign

    def bind(self) -> None:
        """Find the tensors of modules that have other parts than before."""
        for source, binding in self.bindings.items():
            if not binding.stands():
                self.bindings[source] = Binding.of(binding.module)
            else:
                binding.mark()
        self._places = {node: Place.of(node, self.bindings) for node in self._nodes}

    def stands(self) -> bool:
        """Whether all modules have the parts that were found."""
        return all(binding.stands() for binding in self.bindings.values())

    def parameters(self, variable: Variable) -> dict[str, Tensor]:
        """A variable's parameters by name, found without a walk through its module."""
        if variable not in self.bindings:
            return variable.named_parameters()
        slots = ((name, s[0]) for name, s in self.bindings[variable].parameters.items())
        return {name: p for name, (slot, key) in slots if (p := slot[key]) is not None}

    def constants(self, variable: Variable) -> dict[str, Tensor]:
        """The standing values of a variable's trained parameters, without gradient."""
        found = self.parameters(variable).items()
        return {name: p.detach() for name, p in found if p.requires_grad}

    def size(self, variable: Variable) -> int:
        """How many parameters a variable has."""
        return len(self.bindings[variable].parameters) if variable in self.bindings else 1

    def commit(self, written: Mapping[Any, list[Tensor]]) -> None:
        """Write buffers into the modules they belong to."""
        with torch.no_grad():
            for source, tensors in written.items():
                self.bindings[source].write(tensors)

    def hold(self, source: Any, tensors: list[Tensor]) -> None:
        """Let a module hold these very tensors as its buffers."""
        for (slot, key), t in zip(self.bindings[source].buffers, tensors, strict=True):
            slot[key] = t

    def release(self) -> None:
        """Take back the copies of a step, none of whose graphs will be used again."""
        if self.recall.at is not None:
            self.recall.leave()
        while self._open:
            self.shut()
        self.generators.close()
        while self._lent:  # each is out of here before it is there: none is taken back twice
            binding, copies = self._lent.pop()
            binding.take_back(copies)
        self._batches.clear()
        for way in filter(None, (self.ranks, self.parts, self.devices)):
            way.release()

    def open(self, parts: list[dict[str, Any]] | None = None) -> Swap:
        """What is put into modules until `shut`, or `release` if that is interrupted."""
        self._open.append(swap := Swap(parts))
        return swap

    def shut(self) -> None:
        """Put back what the innermost evaluation has swapped; again, if that was interrupted."""
        self._open[-1].back()
        self._open.pop()

    def bound(self, node: Node) -> list[Any]:
        """What a node reads that is a module, and its own memory."""
        return [source for source, _ in self._places[node].bound]

    def arguments(self, node: Node, point: Point, swap: Swap) -> tuple[list[Any], list[Tensor]]:
        """What a node's function is called with, and the tensors among it.

        Args:
            node: a problem or signal.
            point: where.
            swap: will put back what the function does to the containers of the batch.

        Returns:
            The arguments, and the tensors.

        Raises:
            DataError: an iterator is in the batch.
        """
        place = self._places[node]
        arguments = place.arguments.copy()
        for i in place.lists:
            arguments[i] = arguments[i].copy()
        tensors: list[Tensor] = [slot[key] for slot, key in place.first]
        for source, i, j in place.others:
            if isinstance(source, Signal):
                value = point.signals[source]
                tensors += heard(value)
                value = rebuilt(value, same)
            else:
                value = point.values.get(source, _NOTHING).get("", source.value)
                if place.marked and value is not source.value:
                    vars(value).update(marks_of(source.value))
                tensors.append(value)
            if j is None:
                arguments[i] = value
            else:
                arguments[i][j] = value
        if node.streams:
            batch = point.batch
            if isinstance(batch, Tensor):
                tensors.append(batch)
            else:
                found = self._opened(batch)
                if found.iterators:
                    raise DataError(one_shot(node, batch, found.iterators[0]))
                tensors += found.tensors
                swap.opened = found.containers
            arguments.append(batch)
        return arguments, tensors

    def _opened(self, batch: Any) -> Opened:
        """What a batch leads to, which takes long where it leads far: once a step."""
        if id(batch) not in self._batches:
            self._batches[id(batch)] = batch, opened(batch)
        return self._batches[id(batch)][1]
