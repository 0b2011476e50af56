"""Whether an evaluation repeats: the same value at the same point, and nothing left behind."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .._containers.containers import rebuilt
from .._errors import CapabilityWarning, GraphError, exhausted
from .._graph.node import Node
from .._graph.problem import Problem
from .._graph.signal import Signal
from .hidden_state import HiddenState
from .left import Left
from .point import Evaluator, Point
from .purity import Attributes, change
from .surroundings import Surroundings

__all__ = ["Repeats"]


@dataclass
class Repeats:
    """Further evaluations at one point, the first without gradients if that can be done.

    Attributes:
        evaluator: of the graph; it learns if that cannot be done.
        node: a problem or signal.
        point: where it has been evaluated.
        result: what it gave there.
        hidden: what the function can keep.
        attributes: of the modules that the node reads, before the first evaluation.
        left: what it can write past its arguments, which the first evaluation has watched.
    """

    evaluator: Evaluator
    node: Node
    point: Point
    result: Any
    hidden: HiddenState
    attributes: Attributes
    left: Left
    #: Before each evaluation: none goes on from another where that is known to matter.
    _restore: Callable[[], None] = lambda: None

    def check(self) -> bool:
        """Evaluate again.

        Returns:
            Whether the value is the same; a warning says if not, or if evaluations are counted.

        Raises:
            GraphError: the value is another because of an attribute, or it is read from what the
                evaluation before has left.
        """
        try:
            read = self.left.read(self.result, self._evaluate, self._change_between)
            if read:
                self._hands_on(read)
                self._restore = self.left.put_back
            self.hidden.begin(keep=False)
            return self._repeats() and not read
        except GraphError:
            self.attributes.put_back()
            raise
        finally:
            self.hidden.end()

    def _repeats(self) -> bool:
        still = self._without_gradients(_parameter)
        moved = self.hidden.moved()
        if isinstance(self.node, Problem) and still is not None:
            self._read(still, detached=True)
        elif self.hidden.any():  # what was computed without a graph does not say what it has read
            self._read(self._evaluate())
        off = 0.0 if still is None else self._change(still)
        if still is None or off:
            # Twice more: what alternates is the same at every other call.
            again = max(self._change(self._evaluate()) for _ in range(2))
            if again or (off and self.attributes.changed()):
                self._differs(again or off)
                return False
            plain = self._without_gradients(_still) if off else None
            if plain is not None and not self._change(plain):
                self._differs_by_class(off)
            self.evaluator.differentiating.add(self.node)
        if moved:
            self._warn_of_counts()
        return True

    def _differs(self, off: float) -> None:
        what = f"{self.node.name}: evaluated twice at one point, its value differs by {off:.1e}"
        if changed := self.attributes.changed():
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

    def _hands_on(self, read: list[str]) -> None:
        """What one evaluation writes is read by the next."""
        names = " and ".join(read[:3]) + (f" and {len(read) - 3} more" if len(read) > 3 else "")
        what = (
            f"{self.node.name}: each evaluation writes {names}, and its value depends on what is "
            "there: state that an evaluation leaves to the next one. "
        )
        if any(name.startswith(f"{module}.") for name in read for module, _ in self._modules()):
            raise GraphError(
                f"{what}Register it as a buffer (register_buffer): buffers move on once a step."
            )
        warnings.warn(
            f"{what}A step makes any number of evaluations, and does not put it back if it fails. "
            "Register it as a buffer of a variable's module (register_buffer): buffers move on "
            "once a step. Or update it in a callback (on_step).",
            CapabilityWarning,
            stacklevel=2,
        )

    def _differs_by_class(self, off: float) -> None:
        raise GraphError(
            f"{self.node.name}: its value differs by {off:.1e} (relative to its size) where "
            "nn.Parameters stand in its variables from where other tensors do, as they do wherever "
            "a value is looked ahead or displaced. Tell parameters apart by their names "
            "(named_parameters()) or by attributes of theirs, instead of by isinstance()."
        )

    def _warn_of_counts(self) -> None:
        """What still moves from one evaluation with gradients to the next, at one point."""
        self._evaluate()
        self.hidden.begin(keep=False)
        self._evaluate()
        if moved := self.hidden.moved():
            warnings.warn(
                f"{self.node.name}: each evaluation changes {' and '.join(moved[:3])}, and a step "
                "makes any number of them: what is counted or averaged there counts them all. "
                "Register it as a buffer of a variable's module (register_buffer): buffers move on "
                "once a step. A module that is no variable's belongs in eval mode, or into one.",
                CapabilityWarning,
                stacklevel=2,
            )

    def _read(self, result: Any, detached: bool = False) -> None:
        self.hidden.check_read(self.node.name, self._value(result), detached=detached)

    def _evaluate(self) -> Any:
        self._restore()
        with torch.enable_grad():
            return self.evaluator(self.node, self.point, keep=True)[0]

    def _without_gradients(self, kind: Callable[[Tensor], Tensor]) -> Any:
        """The value where nothing requires a gradient; None if there is none.

        Args:
            kind: what stands in variables, made of a tensor.

        Returns:
            The value.
        """
        values = {v: {k: kind(t) for k, t in tensors.items()}
                  for v, tensors in self.point.values.items()}  # fmt: skip
        heard = (read.source for read in self.node.reads if isinstance(read.source, Signal))
        signals = {s: rebuilt(self.point.signals[s], _still) for s in heard}
        point = replace(self.point, values=values, signals={**self.point.signals, **signals})
        self._restore()
        with torch.set_grad_enabled(isinstance(self.node, Problem)), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of what is expected here
            try:
                return self.evaluator(self.node, point, keep=True)[0]
            except Exception as error:  # the function has its reasons
                if exhausted(error):
                    raise
                return None

    def _change(self, again: Any) -> float:
        return self._change_between(self.result, again)

    def _change_between(self, once: Any, again: Any) -> float:
        return change(*map(self._value, (once, again)))

    def _value(self, result: Any) -> Any:
        """That of an objective is without its metrics."""
        alone = isinstance(self.node, Problem) and isinstance(result, tuple)
        return result[0] if alone else result

    def _modules(self) -> Iterator[tuple[str, nn.Module]]:
        bound = self.evaluator.bound(self.node)
        return ((s.name, self.evaluator.bindings[s].module) for s in bound)

    def _left_behind(self) -> list[str]:
        """What one more evaluation changes of what the function can reach."""
        surroundings = Surroundings(self.node.fn, self._modules())
        self._evaluate()
        return surroundings.changed()


def _parameter(tensor: Tensor) -> Tensor:
    return nn.Parameter(tensor.detach(), requires_grad=False)


def _still(held: Any) -> Any:
    return held.detach() if isinstance(held, Tensor) else held
