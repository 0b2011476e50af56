"""The first check: each function is called before the first step, to see what it does."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .._errors import CapabilityWarning, GraphError
from .._graph.containers import rebuilt
from .._graph.graph import Graph
from .._graph.node import Node
from .._graph.orders import orders
from .._graph.problem import Problem
from .._graph.signal import Signal, join, split
from .._tensors import Tensors, continuous, grouped
from .._variable import Variable
from ..hypergrad.derivatives import derivatives
from .binding import Swap
from .capability import check_second_order
from .loss import split_loss
from .point import Evaluator, Point, written_in_place
from .purity import Attributes, Copies, change, foreign_draws
from .reads import Touches, check_touched
from .slope import check_slope
from .sparse import check_sparse
from .written_out import check_written_out

__all__ = ["check_nodes"]


def check_nodes(
    graph: Graph,
    evaluator: Evaluator,
    batch: Callable[[Node], Any],
    seed: Callable[[Node, int], int],
) -> dict[Problem, str]:
    """Evaluate each node with copies of what it reads, and look at what it does.

    Changes nothing of the user's: no buffer is committed, no gradient taken for an update. The
    evaluator learns which generators a function draws from, and what is computed again in backward
    passes; the graph, what cannot be differentiated twice.

    Args:
        graph: the graph.
        evaluator: of the graph.
        batch: (node) -> a batch.
        seed: (node, inner step) -> the seed of the first evaluation.

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
    nested = not all(map(graph.staged, graph.problems))
    deepest = max(often.values()) if nested else 1  # signals are gone back through with the levels
    for node in graph.nodes:
        check = _Check(graph, evaluator, node, signals, batch(node), seed(node, 0))
        check.run(own, often[node] if isinstance(node, Problem) else deepest)
        if isinstance(node, Signal):
            signals[node] = check.result
        if isinstance(node, Problem) and check.shallow:
            shallow[node] = check.shallow
        del check  # and what it has copied
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
    """

    def __init__(
        self,
        graph: Graph,
        evaluator: Evaluator,
        node: Node,
        signals: dict[Signal, Any],
        batch: Any,
        seed: int,
    ) -> None:
        self.graph, self.evaluator, self.node = graph, evaluator, node
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
        self.narrow: torch.dtype | None = None
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
        attributes = self._attributes()
        drawn = foreign_draws()
        try:
            self.result, touched = self._watched({**own, **self._arguments()})
            self._check_written()
        except BaseException:
            self.copies.put_back()
            raise
        if drawn():
            self.evaluator.generators.foreign = True
            self.result, _ = self._evaluate()
        self._check_returned()
        check_touched(node, touched, free)
        check_sparse(self.graph, self.evaluator, node, self.point, self.result)
        check_written_out(self.evaluator, node, self.result, often)
        gradient = self._differentiate(own)
        # One graph at a time, as in a step, and no gradient beside it that nobody asks for.
        self.result = rebuilt(self.result, _leaf)
        if isinstance(node, Problem):
            self._check_depends(gradient, below)
            if not self.graph.methods[node].responds:
                gradient = {}
        repeats = self._repeats(attributes)
        if isinstance(node, Problem):
            wanted = {k: t for k, t in self.leaves.items() if t.requires_grad}
            over = {k: t for k, t in wanted.items() if k[0] in node.over}
            self.shallow = check_second_order(
                self.graph, self.evaluator, node, self.point, wanted, over, often
            )
            if repeats and self.graph.methods[node].responds:
                check_slope(
                    self.graph, self.evaluator, node, self.point, wanted, gradient, self.narrow
                )

    def _arguments(self) -> dict[int, tuple[Any, bool]]:
        return {id(t): (source, True) for (source, _), t in self.leaves.items()}

    def _evaluate(self) -> tuple[Any, Any]:
        with torch.enable_grad():
            return self.evaluator(self.node, self.point, keep=True)

    def _without_gradients(self) -> Any:
        """The value where nothing requires a gradient; None if there is none."""
        values = {v: {k: t.detach() for k, t in tensors.items()}
                  for v, tensors in self.point.values.items()}  # fmt: skip
        point = replace(self.point, values=values)
        with torch.set_grad_enabled(isinstance(self.node, Problem)), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of what is expected here
            try:
                return self.evaluator(self.node, point, keep=True)[0]
            except Exception:  # the function has its reasons
                return None

    def _watched(self, watched: dict[int, Any]) -> tuple[Any, set[Any]]:
        try:
            with _eager(), Touches(watched) as touches:
                result, _ = self._evaluate()
        except RuntimeError as error:  # torch has no type of its own for it
            if "in-place" in str(error) and "leaf" in str(error):
                raise GraphError(written_in_place(self.node)) from error
            raise
        self.narrow = touches.narrow
        return result, touches.found

    def _attributes(self) -> Attributes:
        bound = self.evaluator.bound(self.node)
        return Attributes((s.name, self.evaluator.bindings[s].module) for s in bound)

    def _check_returned(self) -> None:
        if isinstance(self.node, Problem):
            split_loss(self.result, self.node.name)
        else:
            split(self.result, self.node.name)

    def _check_written(self) -> None:
        if written := self.copies.written():
            raise GraphError(
                f"{self.node.name} writes {' and '.join(written)} in place, which others read "
                "after it, by .data or NumPy. Compute a new tensor, or copy it before: x.clone()."
            )

    def _repeats(self, attributes: Attributes) -> bool:
        """Whether the same evaluation gives the same once more, without gradients if it can."""
        still = self._without_gradients()
        off = 0.0 if still is None else self._change(still)
        if still is not None and not off:
            return True
        again = self._change(self._evaluate()[0])
        if not again and not (off and attributes.changed()):
            self.evaluator.differentiating.add(self.node)
            return True
        off = again or off
        what = f"{self.node.name}: evaluated twice at one point, its value differs by {off:.1e}"
        if changed := attributes.changed():
            attributes.put_back()
            raise GraphError(
                f"{what}, and so does {' and '.join(changed[:3])}: state that an evaluation leaves "
                "to the next one. Register it as a buffer (register_buffer): buffers move on once "
                "a step."
            )
        warnings.warn(
            f"{what} (relative to its size). A product by differences, and whatever else "
            "evaluates it more than once, is then of different functions. Draw from the global "
            "generators of torch, NumPy or Python, which are seeded for each evaluation, not from "
            "one of its own; and keep no count of calls.",
            CapabilityWarning,
            stacklevel=2,
        )
        return False

    def _change(self, again: Any) -> float:
        """How much the value is another one: of an objective without its metrics."""
        if not isinstance(self.node, Problem):
            return change(self.result, again)
        return change(*(r[0] if isinstance(r, tuple) else r for r in (self.result, again)))

    def _differentiate(self, own: dict[int, Any]) -> Tensors:
        """The gradient by all that the function reads; who computes anything again is noted."""
        if isinstance(self.node, Problem):
            outputs = [split_loss(self.result, self.node.name)[0]]
        else:
            parts = split(self.result, self.node.name).values()
            outputs = [t for t in parts if continuous(t)]
        outputs = [t for t in outputs if t.requires_grad]
        inputs = {k: t for k, t in self.leaves.items() if t.requires_grad}
        lent = self._lend_buffers()
        watched = {**own, **{id(slot[key]): key for slot, key, _ in lent.slots}}
        try:
            with torch.enable_grad(), _eager(), Touches(watched) as touches:
                found = derivatives(outputs, inputs, [torch.ones_like(t) for t in outputs])
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


def _leaf(held: Any) -> Any:
    """A tensor without its graph, which still says whether it had one."""
    return held.detach().requires_grad_(held.requires_grad) if isinstance(held, Tensor) else held


def _eager() -> AbstractContextManager[Any]:
    """Without compilation: some versions of torch never compile again what ran under a watch."""
    if "torch._dynamo" not in sys.modules:  # its import takes seconds, and nothing is compiled
        return nullcontext()
    return torch.compiler.set_stance("force_eager")
