"""Evaluation at a point: values swapped in, randomness replayed, buffers protected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .._graph.node import Node
from .._graph.signal import Signal
from .._replay import Generators
from .._tensors import clone
from .._variable import Variable

__all__ = ["Evaluator", "Point", "cuda_devices"]

_Slot = tuple[dict[str, Any], str]


@dataclass(frozen=True)
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


@dataclass
class Binding:
    """Where the tensors of one module live, so that others can take their place for a while.

    The dictionaries are those in which `nn.Module` keeps its tensors. `torch.func.functional_call`
    swaps there as well, but finds each by a walk along its dotted name; here a swap is one
    assignment.
    """

    module: nn.Module
    parameters: dict[str, list[_Slot]] = field(default_factory=dict)
    buffers: list[_Slot] = field(default_factory=list)
    spare: list[list[Tensor]] = field(default_factory=list)
    sparse: list[dict[str, Any]] = field(default_factory=list)  # of embeddings, such gradients

    @classmethod
    def of(cls, module: nn.Module) -> Binding:
        """Find the slots of a module; a tied parameter has several."""
        binding = cls(module)
        name_of: dict[int, str] = {}
        for prefix, part in module.named_modules():
            for key, p in part._parameters.items():
                if p is not None:
                    name = name_of.setdefault(id(p), f"{prefix}.{key}" if prefix else key)
                    binding.parameters.setdefault(name, []).append((part._parameters, key))
            if isinstance(part, nn.Embedding | nn.EmbeddingBag) and part.sparse:
                binding.sparse.append(part.__dict__)
            for key, b in part._buffers.items():
                if b is not None:
                    binding.buffers.append((part._buffers, key))
        return binding

    def held(self) -> list[Tensor]:
        """The buffers that the module holds now."""
        return [slot[key] for slot, key in self.buffers]

    def scratch(self) -> list[Tensor]:
        """Copies of the buffers, in spare memory if there is some."""
        held = self.held()
        if self.spare:
            copies = self.spare.pop()
            if all(
                c.shape == h.shape and c.device == h.device
                for c, h in zip(copies, held, strict=True)
            ):
                torch._foreach_copy_(copies, held)
                return copies
        return clone(held)


class Evaluator:
    """Calls the functions of a graph at points.

    Nothing that an evaluation does can be seen afterwards: parameters and buffers are back in
    place, the global generators stand where they stood. Buffers that the evaluation wrote are
    returned to who asks for them.

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
        # how a node is evaluated where second derivatives will be taken, if not as it is
        self.regions: dict[Any, Callable[[], AbstractContextManager[Any]]] = {}
        # (node, twice) -> its function, or another that computes the same
        self.choose: Callable[[Node, bool], Callable[..., Any]] = lambda node, twice: node.fn
        self._lent: list[tuple[Binding, list[Tensor]]] = []
        self._open: list[list[tuple[dict[str, Any], str, Any]]] = []
        self.bindings: dict[Any, Binding] = {
            v: Binding.of(v.value) for v in variables if isinstance(v.value, nn.Module)
        }
        self._bound: dict[Node, list[Any]] = {}
        for node in nodes:
            read = (r.source for r in node.reads if not isinstance(r.source, Signal))
            self._bound[node] = [source for source in read if source in self.bindings]
            if isinstance(node, Signal) and node.state is not None:
                self.bindings[node] = Binding.of(node.state)
                self._bound[node].append(node)

    def __call__(
        self,
        node: Node,
        point: Point,
        *,
        owner: Iterable[Any] = (),
        keep: bool = False,
        twice: bool = False,
        start: Mapping[Any, list[Tensor]] | None = None,
    ) -> tuple[Any, dict[Any, list[Tensor]]]:
        """Evaluate a node.

        Args:
            node: a problem or signal.
            point: where.
            owner: variables (or the signal) whose buffers this evaluation writes for good.
            keep: the result's graph will outlive this call, so its buffers must not be used again.
            twice: the result will be differentiated twice.
            start: buffers to begin with, where they are not those that the modules hold.

        Returns:
            What the function returned, and for each owner with buffers those that it wrote.
        """
        self.count[node] += 1
        swapped: list[tuple[dict[str, Any], str, Any]] = []
        self._open.append(swapped)
        lent: list[tuple[Any, Binding, list[Tensor]]] = []
        written: dict[Any, list[Tensor]] = {}
        try:
            for source in self._bound[node]:
                binding = self.bindings[source]
                values = point.values.get(source, {})
                if binding.sparse and (twice or any(not t.is_leaf for t in values.values())):
                    # A gradient that goes on from there is dense: an optimizer's alone is sparse.
                    for held in binding.sparse:
                        swapped.append((held, "sparse", True))
                        held["sparse"] = False
                for name, tensor in values.items():
                    for slot, key in binding.parameters[name]:
                        swapped.append((slot, key, slot[key]))
                        slot[key] = tensor
                if binding.buffers:
                    copies = binding.scratch()
                    if start and source in start:
                        torch._foreach_copy_(copies, start[source])
                    lent.append((source, binding, copies))
                    for (slot, key), copy in zip(binding.buffers, copies, strict=True):
                        swapped.append((slot, key, slot[key]))
                        slot[key] = copy
            region = self.regions.get(node, nullcontext) if twice else nullcontext
            with self.generators, region():
                self.generators.seed(point.seed)
                result = self.choose(node, twice)(*self.arguments(node, point))
            owners = tuple(owner)
            for source, binding, copies in lent:
                if source in owners:  # a module may assign its buffers anew instead of writing them
                    written[source] = [t.detach() for t in binding.held()]
                if source in owners or keep:
                    self._lent.append((binding, copies))
                else:
                    binding.spare.append(copies)
        finally:
            self._swap_back()  # this one: those that it called have ended
        return result, written

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
        if not written:
            return
        with torch.no_grad():
            for source, tensors in written.items():
                binding = self.bindings[source]
                held = binding.held()
                if not held:
                    continue
                if all(t.shape == h.shape for t, h in zip(tensors, held, strict=True)):
                    torch._foreach_copy_(held, tensors)
                else:  # a buffer that grew
                    for (slot, key), t in zip(binding.buffers, tensors, strict=True):
                        slot[key] = t

    def hold(self, source: Any, tensors: list[Tensor]) -> None:
        """Let a module hold these very tensors as its buffers."""
        for (slot, key), t in zip(self.bindings[source].buffers, tensors, strict=True):
            slot[key] = t

    def release(self) -> None:
        """Take back the copies of a step: none of its graphs will be used again.

        If an evaluation was interrupted where it ends, it is ended here.
        """
        while self._open:
            self._swap_back()
        self.generators.close()
        for binding, copies in self._lent:
            binding.spare.append(copies)
        self._lent.clear()

    def _swap_back(self) -> None:
        """Put back what the innermost evaluation has swapped; again, if that was interrupted."""
        for slot, key, tensor in reversed(self._open[-1]):
            slot[key] = tensor
        self._open.pop()

    def bound(self, node: Node) -> list[Any]:
        """What a node reads that is a module, and its own memory."""
        return self._bound[node]

    def arguments(self, node: Node, point: Point) -> list[Any]:
        """What a node's function is called with."""
        arguments: list[Any] = []
        for argument in node.arguments:
            if argument.is_list:
                arguments.append([_value(read.source, point) for read in argument.reads])
            else:
                arguments.append(_value(argument.reads[0].source, point))
        if node.streams:
            arguments.append(point.batch)
        return arguments


def _value(source: Any, point: Point) -> Any:
    """What a function receives: a signal's value, the tensor, or the module itself."""
    if source in point.signals:
        return point.signals[source]
    if source.is_module:
        return source.value
    swapped = point.values.get(source)
    return source.value if swapped is None else swapped.get("", source.value)


def cuda_devices(variables: Iterable[Variable], device: torch.device | None) -> tuple[int, ...]:
    """The CUDA devices on which a graph draws random numbers."""
    devices = {p.device for v in variables for p in v.parameters()} | (
        {device} if device else set()
    )
    return tuple(
        sorted(
            {
                d.index if d.index is not None else torch.cuda.current_device()
                for d in devices
                if d.type == "cuda"
            }
        )
    )
