"""The first check: each function is called before the first step, to see what it does."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import CapabilityWarning, GraphError
from .._graph.graph import Graph
from .._graph.node import Node
from .._graph.orders import orders
from .._graph.problem import Problem
from .._graph.signal import Signal, join, split
from .._tensors import Tensors, grouped
from .._variable import Variable
from ..hypergrad.derivatives import derivatives
from .autograd_graph import operations
from .binding import Swap
from .capability import check_second_order
from .causes import Aloud
from .loss import split_loss
from .point import Evaluator, Point, written_in_place
from .purity import Attributes, Copies, change, foreign_draws
from .reads import Touches, check_touched
from .slope import check_precision, check_slope
from .sparse import check_sparse
from .surroundings import Surroundings

__all__ = ["check_nodes", "eager"]


def check_nodes(
    graph: Graph,
    evaluator: Evaluator,
    batch: Callable[[Node], Any],
    seed: Callable[[Node, int], int],
    hear: Aloud | None = None,
) -> dict[Problem, str]:
    """Evaluate each node with copies of what it reads, and look at what it does.

    Changes nothing of the user's: no buffer is committed, no gradient taken for an update. The
    evaluator learns which generators a function draws from, in which low precision it computes, and
    what is computed again in backward passes; the graph, what cannot be differentiated twice.

    Args:
        graph: the graph.
        evaluator: of the graph.
        batch: (node) -> a batch.
        seed: (node, inner step) -> the seed of the first evaluation.
        hear: where refusals and warnings go; by default they are raised and given.

    Returns:
        The problems that cannot be differentiated as often as nested levels may need, and why.

    Raises:
        GraphError: a hidden read, a given that is never touched, a value that is not a scalar, an
            objective that does not depend on its own variable, an argument written in place, state
            that an evaluation leaves behind, or no first derivative.
    """
    # What arrives as an argument has another identity than the variable's own tensors: whoever
    # touches those has gone past the arguments.
    own = {id(p): (v, False) for v in graph.variables for p in v.named_parameters().values()}
    signals: dict[Signal, Any] = {}
    shallow: dict[Problem, str] = {}
    often = orders(graph)
    hear = hear or Aloud()
    for node in graph.nodes:
        if any(isinstance(r.source, Signal) and r.source not in signals for r in node.reads):
            continue  # of which nothing is known, as has been heard
        check = _Check(graph, evaluator, node, signals, batch(node), seed(node, 0), hear)
        check.run(own, often.get(node, 1))  # type: ignore[call-overload]
        if isinstance(node, Signal) and check.sound:
            signals[node] = check.result
        if isinstance(node, Problem) and check.shallow:
            shallow[node] = check.shallow
    evaluator.release()
    return shallow


class _Check:
    """The first check of one node.

    Args:
        graph: the graph.
        evaluator: of the graph.
        node: the node.
        signals: what those below it gave.
        batch: its batch.
        seed: of its evaluations.
        hear: where refusals and warnings go.
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
    ) -> None:
        self.graph, self.evaluator, self.node = graph, evaluator, node
        self._hear, self._label = hear, graph.labels[node]
        self.copies = Copies()
        self.leaves: Tensors = {}
        values: dict[Variable, dict[str, Tensor]] = {}
        heard = dict(signals)
        for source in (read.source for read in node.reads):
            signal = isinstance(source, Signal)
            tensors = split(signals[source], source.name) if signal else source.named_parameters()
            fresh = {k: self.copies.leaf(t, source.name) for k, t in tensors.items()}
            self.leaves.update({(source, k): t for k, t in fresh.items()})
            if signal:
                heard[source] = join(signals[source], fresh)
            else:
                values[source] = fresh
        self.copies.remember(batch, "its batch")
        self.point = Point(values, heard, batch, seed)
        self.result: Any = None
        self.sound = False  # whether the result is one
        self.shallow: str | None = None

    def run(self, own: dict[int, tuple[Any, bool]], often: int) -> None:
        """All of it.

        Args:
            own: the variables' own tensors, by identity.
            often: how often the node may be differentiated.
        """
        node = self.node
        # An upper problem may depend on its own variables through the lower ones alone.
        below = isinstance(node, Problem) and bool(self.graph.sweeps[node].nodes)
        free = set(node.over) if isinstance(node, Problem) and below else set()
        touched: set[tuple[Any, bool]] = set()
        attributes = Attributes(self._modules())
        with self.hear("writes"):
            touched = self._evaluate_first(own)
            with self.hear("value"):
                self._check_returned()
                self.sound = True
        if not self.sound:
            return
        with self.hear("reads"):
            check_touched(node, touched, free)
        repeats = False
        with self.hear("state"):
            repeats = self._repeats(attributes)
        with self.hear("derivatives"):
            check_sparse(self.graph, self.evaluator, node, self.point, self.result)
            gradient = self._differentiate(own)
            if isinstance(node, Problem):
                self._check_problem(node, gradient, below, often, repeats)

    def hear(self, kind: str) -> AbstractContextManager[None]:
        """A block of one kind of checks."""
        return self._hear(kind, self._label)

    def _evaluate_first(self, own: dict[int, tuple[Any, bool]]) -> set[tuple[Any, bool]]:
        """Evaluate; what has been touched."""
        drawn = foreign_draws()
        try:
            try:
                self.result, touched = self._watched({**own, **self._arguments()})
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
        return touched

    def _check_problem(
        self, node: Problem, gradient: Tensors, below: bool, often: int, repeats: bool
    ) -> None:
        self._check_depends(gradient, below)
        wanted = {k: t for k, t in self.leaves.items() if t.requires_grad}
        over = {k: t for k, t in wanted.items() if k[0] in node.over}
        self.shallow = check_second_order(
            self.graph, self.evaluator, node, self.point, wanted, over, often
        )
        if not (repeats and self.graph.methods[node].responds):
            return
        narrow = self.evaluator.narrow.get(node)
        with self.hear("precision"):
            check_precision(self.graph, node, gradient, narrow)
        with self.hear("backward"):
            if narrow is None:
                check_slope(self.graph, self.evaluator, node, self.point, wanted, gradient)

    def _arguments(self) -> dict[int, tuple[Any, bool]]:
        return {id(t): (source, True) for (source, _), t in self.leaves.items()}

    def _evaluate(self) -> tuple[Any, Any]:
        with torch.enable_grad():
            return self.evaluator(self.node, self.point, keep=True)

    def _watched(self, watched: dict[int, Any]) -> tuple[Any, set[Any]]:
        try:
            with eager(), Touches(watched) as touches:
                result, _ = self._evaluate()
        except RuntimeError as error:  # torch has no type of its own for it
            if "in-place" in str(error) and "leaf" in str(error):
                raise GraphError(written_in_place(self.node)) from error
            raise
        self.evaluator.narrow.pop(self.node, None)
        if touches.narrow is not None:
            self.evaluator.narrow[self.node] = touches.narrow
        return result, touches.found

    def _modules(self) -> Iterator[tuple[str, nn.Module]]:
        bound = self.evaluator.bound(self.node)
        return ((s.name, self.evaluator.bindings[s].module) for s in bound)

    def _check_returned(self) -> None:
        if isinstance(self.node, Problem):
            split_loss(self.result, self.node.name)
        else:
            split(self.result, self.node.name)

    def _check_written(self) -> None:
        if written := self.copies.written():
            raise GraphError(
                f"{self.node.name} writes {' and '.join(written)} in place, which others read "
                "after it. Compute a new tensor: x = x / 2 instead of x.div_(2), or copy it "
                "before: x.clone(); weights are written by the optimizer alone."
            )

    def _repeats(self, attributes: Attributes) -> bool:
        """Whether the same evaluation gives the same once more."""
        again, _ = self._evaluate()
        if isinstance(self.node, Problem):
            off = change(self.result[0] if isinstance(self.result, tuple) else self.result,
                         again[0] if isinstance(again, tuple) else again)  # fmt: skip
        else:
            off = change(self.result, again)
        if not off:
            return True
        what = f"{self.node.name}: evaluated twice at one point, its value differs by {off:.1e}"
        if changed := attributes.changed():
            attributes.put_back()
            raise GraphError(
                f"{what}, and so does {' and '.join(changed[:3])}: state that an evaluation leaves "
                "to the next one. Register it as a buffer (register_buffer): buffers move on once "
                "a step."
            )
        changed = self._left_behind()
        left = f" It changes {' and '.join(changed[:3])}." if changed else ""
        warnings.warn(
            f"{what} (relative to its size).{left} A product by differences, and whatever else "
            "evaluates it more than once, is then of different functions. Draw from the global "
            "generators of torch, NumPy or Python, which are seeded for each evaluation, not from "
            "one of its own; and keep no count of calls.",
            CapabilityWarning,
            stacklevel=2,
        )
        return False

    def _left_behind(self) -> list[str]:
        """What one more evaluation changes of what the function can reach."""
        surroundings = Surroundings(self.node.fn, self._modules())
        self._evaluate()
        return surroundings.changed()

    def _differentiate(self, own: dict[int, Any]) -> Tensors:
        """The gradient by all that the function reads; who computes anything again is noted."""
        if isinstance(self.node, Problem):
            outputs = [split_loss(self.result, self.node.name)[0]]
        else:
            parts = split(self.result, self.node.name).values()
            outputs = [t for t in parts if t.is_floating_point() or t.is_complex()]
        outputs = [t for t in outputs if t.requires_grad]
        inputs = {k: t for k, t in self.leaves.items() if t.requires_grad}
        lent = self._lend_buffers()
        watched = {**own, **{id(slot[key]): key for slot, key, _ in lent.slots}}
        try:
            with torch.enable_grad(), eager(), Touches(watched) as touches:
                found = derivatives(
                    outputs, inputs, [torch.ones_like(t) for t in outputs], retain_graph=True
                )
        except RuntimeError as error:  # torch has no type of its own for it
            said = str(error).strip().splitlines()[0].rstrip(".")
            hint = " Give use_reentrant=False." if "use_reentrant=True" in said else ""
            raise GraphError(
                f"{self.node.name}: its gradient cannot be taken: {said}.{hint}"
            ) from error
        finally:
            lent.back()
        if touches.found:
            self.evaluator.recomputing.add(self.node)
        if len(found) < len(inputs) and _has_reentrant(outputs):
            raise GraphError(
                f"{self.node.name}: a reentrant checkpoint hides what is used inside of it from "
                "its gradient. Give use_reentrant=False."
            )
        return found

    def _lend_buffers(self) -> Swap:
        """Copies in the places of buffers, for what is computed again where nobody knows it yet."""
        lent = Swap()
        for binding in (self.evaluator.bindings[s] for s in self.evaluator.bound(self.node)):
            lent.note_modes(binding)
            for (slot, key), copy in zip(binding.buffers, binding.scratch(), strict=True):
                lent.put(slot, key, copy)
        return lent

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


def _has_reentrant(outputs: list[Tensor]) -> bool:
    return any(node.name() == "CheckpointFunctionBackward" for node in operations(outputs))


def eager() -> AbstractContextManager[Any]:
    """Without compilation: some versions of torch never compile again what ran under a watch."""
    if "torch._dynamo" not in sys.modules:  # its import takes seconds, and nothing is compiled
        return nullcontext()
    return torch.compiler.set_stance("force_eager")
