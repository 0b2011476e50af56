"""`NodeCheck`: the first check of one node."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from .._containers.containers import rebuilt
from .._errors import GraphError, exhausted
from .._graph.graph import Graph
from .._graph.node import Node
from .._graph.problem import Problem
from .._graph.signal import Signal, join, split
from .._tensors import Tensors, grouped
from .._variable import Variable
from ..hypergrad.derivatives import derivatives
from .autograd_graph import PythonRuns, has_reentrant, leaves, runs_python
from .binding import Swap
from .capability import Lack, check_second_order
from .causes import Aloud
from .curvature_check import check_gauss_newton
from .difference_check import check_differences
from .enclosed import Enclosed
from .float32_check import check_float32
from .hidden_state import HiddenState
from .holders import Holders
from .left import Left
from .loss import differentiable, split_loss
from .point import Evaluator, Point
from .purity import Attributes, Copies, foreign_draws
from .reads import Touches, check_frozen, check_touched, eager
from .repeats import Repeats
from .shared_buffers import check_shared_buffers
from .slots import whole_reads
from .sparse import check_sparse
from .versions import written_among
from .watched import watched
from .ways import HOOK, bent_operations
from .written_out import Calls, check_written_out

__all__ = ["NodeCheck"]


class NodeCheck:
    """The first check of one node.

    Args:
        graph: the graph.
        evaluator: of the graph.
        node: the node.
        signals: what those below it gave.
        batch: its batch.
        seed: of its evaluations.
        hear: where refusals and warnings go.
        enclosed: of middle problems, what is inside of them.
        holders: whose the graph's parameters are.
    """

    def __init__(
        self,
        graph: Graph,
        evaluator: Evaluator,
        node: Node,
        signals: dict[Signal, Any],
        batch: Any,
        seed: int,
        hear: Aloud,
        enclosed: Enclosed,
        holders: Holders,
    ) -> None:
        self.graph, self.evaluator, self.node = graph, evaluator, node
        self.enclosed, self._holders = enclosed, holders
        self._hear, self._label = hear, graph.labels[node]
        self.copies = Copies()
        self.leaves: Tensors = {}
        values: dict[Variable, dict[str, Tensor]] = {}
        heard = dict(signals)
        for source in (read.source for read in node.reads):
            signal = isinstance(source, Signal)
            if signal:
                tensors = split(signals[source], source.name)
            else:
                found = evaluator.parameters(source).items()
                tensors = {k: t for k, t in found if id(t) not in holders.common}
            fresh = {k: self.copies.leaf(t, source.name) for k, t in tensors.items()}
            self.leaves.update({(source, k): t for k, t in fresh.items()})
            if signal:
                heard[source] = join(signals[source], fresh)
            else:
                values[source] = fresh
        self.copies.remember(batch, "its batch")
        self.point = Point(values, heard, batch, seed)
        self.result: Any = None
        self.written: dict[Any, list[Tensor]] = {}  # the buffers after its first evaluation
        self.ways: list[str] = []  # in which it leaves autograd
        self._python = True  # whether Python may be called in its backward
        self.sound = False  # whether the result is one
        self.shallow: Lack | None = None

    def run(self, often: int, around: list[Left], first: bool) -> None:
        """All of it.

        Args:
            often: how often the node may be differentiated.
            around: takes what is put back after all checks.
            first: end at once where the function gives its modules other parts.
        """
        node = self.node
        # An upper problem may depend on its own variables through the lower ones alone.
        below = isinstance(node, Problem) and bool(self.graph.sweeps[node].nodes)
        free = set(node.over) if isinstance(node, Problem) and below else set()
        if isinstance(node, Problem):  # numbers of its optimizer are used in its steps
            free.update(n.key[0] for n in self.graph.numbers.get(node, {}).values())
        own, common, _ = self._holders
        tensors = {**own, **self._arguments(), **common}
        learn = [(source, t) for (source, _), t in self.leaves.items() if t.requires_grad]
        touched: set[tuple[Any, bool]] = set()
        attributes = Attributes(self._modules())
        hidden = HiddenState(node.fn, self._modules(), own, self.leaves.values())
        with self.hear("writes"):
            hidden.begin()
            loaders = [s.loader for n in self.graph.nodes for s in n.streams]
            around.append(left := Left(node.fn, self._modules(), own, loaders))
            try:
                touched = self._evaluate_first(tensors, left.watch)
            finally:
                hidden.end()
            if first and not self.evaluator.stands():
                return
            check_shared_buffers(self.evaluator, node, self.point)
            with self.hear("value"):
                self._check_returned()
                self.sound = True
        if not self.sound:
            return  # what other threads did has not been watched
        touched |= {tensors[id(t)] for t in leaves(self.result) if id(t) in tensors}
        touched = {
            (s, d) for held, d in touched for s in (held if type(held) is tuple else (held,))
        }
        with self.hear("reads"):
            hidden.check_read(node.name, self.result)
            check_touched(self.graph, node, touched, free)
            check_frozen(self.graph, node, (s for s, t in learn if not t.requires_grad))
        gradient: Tensors | None = None
        with self.hear("derivatives"):
            check_sparse(self.graph, self.evaluator, node, self.point, self.result)
            found = self._differentiate(again := Calls())
            check_written_out(self.evaluator, node, self.result, often, again)
            if isinstance(node, Problem):
                self._check_depends(found, below)
                gradient = found if self.graph.methods[node].responds else {}
        # One graph at a time, as in a step, and no gradient beside it that nobody asks for.
        self.result, found = rebuilt(self.result, _leaf), {}
        repeats = False
        with self.hear("state"):
            at = (self.evaluator, node, self.point, self.result)
            repeats = Repeats(*at, hidden, attributes, left).check()
        if repeats:
            self.enclosed.repeating.add(node)
        if isinstance(node, Problem) and gradient is not None:
            with self.hear("derivatives"):
                self._check_twice(node, gradient, often, repeats)
        elif isinstance(node, Signal):
            wanted = {k: t for k, t in self.leaves.items() if t.requires_grad}
            with self.hear("derivatives"):
                if often > 1:
                    at = (self.graph, self.evaluator, node, self.point, wanted, wanted)
                    self.shallow = check_second_order(*at, often)
            if repeats:
                self._check_enclosed(wanted, {})
        hidden.mark()

    def ask_again(self) -> None:
        """The questions of differences alone, for methods that take them by now."""
        node = self.node
        self._evaluate_first({}, nullcontext())
        if node not in self.enclosed.repeating:
            return
        gradient = self._differentiate(Calls())
        self.result = rebuilt(self.result, _leaf)
        wanted = {k: t for k, t in self.leaves.items() if t.requires_grad}
        if not isinstance(node, Problem):
            self._check_enclosed(wanted, {})
        elif self.graph.methods[node].responds:
            self._ask(node, wanted, gradient)

    def hear(self, kind: str) -> AbstractContextManager[None]:
        """A block of one kind of checks."""
        return self._hear(kind, self._label)

    def _evaluate_first(
        self, tensors: dict[int, tuple[Any, bool]], also: AbstractContextManager[Any]
    ) -> set[tuple[Any, bool]]:
        """Evaluate; what has been touched."""
        drawn = foreign_draws()
        try:
            try:
                at = (self.evaluator, self.node, self._evaluate)
                seen = watched(*at, tensors, also, self._holders.memory)
                self.result, self.written, self.ways = seen.result, seen.written, seen.ways
                self._python = seen.python
            except GraphError:  # the evaluation has seen it, and not of what
                self._check_written()
                raise
            self._check_written()
        except BaseException:
            self.copies.put_back()
            raise
        if drawn():
            self.evaluator.generators.foreign = True
            self.result, _ = self._evaluate()
        return seen.touched

    def _check_twice(self, node: Problem, gradient: Tensors, often: int, repeats: bool) -> None:
        wanted = {k: t for k, t in self.leaves.items() if t.requires_grad}
        over = {k: t for k, t in wanted.items() if k[0] in node.over}
        self.shallow = check_second_order(
            self.graph, self.evaluator, node, self.point, wanted, over, often
        )
        check_gauss_newton(self.graph, self.evaluator, node, self.point, over)
        if repeats and self.graph.methods[node].responds:
            self._ask(node, wanted, gradient)

    def _ask(self, node: Problem, wanted: Tensors, gradient: Tensors) -> None:
        self._check_enclosed(wanted, gradient)
        if node not in self.enclosed.said:
            at = (node, self.point, wanted, gradient)
            with self.evaluator.precision.float32():
                check_differences(self.enclosed, *at, self.ways, self.hear)

    def _check_enclosed(self, wanted: Tensors, gradient: Tensors) -> None:
        inside = [p for p, following in self.enclosed.inside.items() if self.node in following]
        check_float32(self.graph, self.evaluator, self.node, inside, self._evaluate)
        precision = self.evaluator.precision
        if self.node not in precision.lost(self.evaluator.narrow):
            with precision.float32():
                self.enclosed.check(self.node, self.point, wanted, gradient, self.ways)

    def value(self) -> Any:
        """What the node gives, without its graph."""
        return rebuilt(self._evaluate()[0], _leaf)

    def _arguments(self) -> dict[int, tuple[Any, bool]]:
        return {id(t): (source, True) for (source, _), t in self.leaves.items()}

    def _evaluate(self) -> tuple[Any, Any]:
        with torch.enable_grad():
            bound = self.evaluator.bound(self.node)
            return self.evaluator(self.node, self.point, owner=bound, keep=True)

    def _modules(self) -> Iterator[tuple[str, nn.Module]]:
        bound = self.evaluator.bound(self.node)
        return ((s.name, self.evaluator.bindings[s].module) for s in bound)

    def _check_returned(self) -> None:
        if isinstance(self.node, Problem):
            split_loss(self.result, self.node.name)
            return
        split(self.result, self.node.name)

    def _check_written(self) -> None:
        if written := self.copies.written():
            bindings = self.evaluator.bindings
            raise GraphError(written_among(self.graph.nodes, self.node, bindings, written))

    def _differentiate(self, again: Calls) -> Tensors:
        """The gradient by all that the function reads; who computes anything again is noted."""
        outputs = self._outputs()
        bent = [way for t in outputs for way in bent_operations(t)]
        hooks = HOOK in " ".join(self.ways)
        self.evaluator.bent |= hooks or bool(bent)
        self.ways += bent
        # To watch a backward pass takes half as long as the pass, and only Python computes again.
        python = self._python or hooks or runs_python(outputs) or sys.getprofile() is not None
        if not (python or any(not t.is_cpu for t in outputs)):  # elsewhere other threads go back
            runs = PythonRuns()
            found = self._gradient(outputs, runs)
            if not runs.noted:
                return found
            self.result, _ = self._evaluate()  # a hook, it may be, that nobody has seen
        with again:
            touches = Touches(dict(self._holders.own), backward=True)
            found = self._gradient(self._outputs(), touches)
        if touches.found:
            self.evaluator.recomputing.add(self.node)
        return found

    def _outputs(self) -> list[Tensor]:
        return [t for t in differentiable(self.node, self.result) if t.requires_grad]

    def _gradient(self, outputs: list[Tensor], watch: Touches | PythonRuns) -> Tensors:
        inputs = {k: t for k, t in self.leaves.items() if t.requires_grad}
        lent = self.evaluator.open()
        self._lend_buffers(lent)
        if isinstance(watch, Touches):
            # Only tensors: a buffer may be None, as may be an argument of any operation.
            inside = ((slot[key], key) for slot, key, _ in lent.slots)
            watch.watched.update({id(t): key for t, key in inside if t is not None})
        try:
            along = [torch.ones_like(t) for t in outputs]
            with torch.enable_grad(), eager(), watch, whole_reads(self.evaluator.sharded):
                found = derivatives(outputs, inputs, along)
        except RuntimeError as error:  # torch has no type of its own for it
            if exhausted(error):
                raise
            said = str(error).strip().splitlines()[0].rstrip(".")
            hint = " Give use_reentrant=False." if "use_reentrant=True" in said else ""
            if "through the graph a second time" in said:
                hint = " Something is kept by a cache, say: compute it in each evaluation."
            raise GraphError(
                f"{self.node.name}: its gradient cannot be taken: {said}.{hint}"
            ) from error
        finally:
            self.evaluator.shut()
        if len(found) < len(inputs) and has_reentrant(outputs):
            raise GraphError(
                f"{self.node.name}: a reentrant checkpoint hides what is used inside of it from "
                "its gradient. Give use_reentrant=False."
            )
        return found

    def _lend_buffers(self, lent: Swap) -> None:
        """Copies in the places of buffers, for what is computed again where nobody knows it yet."""
        for binding in (self.evaluator.bindings[s] for s in self.evaluator.bound(self.node)):
            lent.note_modes(binding.parts)
            for (slot, key), copy in zip(binding.buffers, binding.scratch(), strict=True):
                lent.put(slot, key, copy)

    def _check_depends(self, gradient: Tensors, below: bool) -> None:
        node = self.node
        assert isinstance(node, Problem)
        loss, _ = split_loss(self.result, node.name)
        if below and loss.requires_grad:
            return
        if not any(source in node.over for source in grouped(gradient)):
            raise GraphError(
                f"{node.name}: its value does not depend on "
                f"{', '.join(v.name for v in node.over)}, which it is minimised over. Is "
                "something detached, or under no_grad?"
            )


def _leaf(held: Any) -> Any:
    """A tensor without its graph, which still says whether it had one."""
    return held.detach().requires_grad_(held.requires_grad) if isinstance(held, Tensor) else held
