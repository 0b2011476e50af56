"""`Recall`: points that are entered again in backward passes, where something is computed again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .autograd_graph import operations
from .binding import Binding, Swap
from .copies import copied
from .slots import reading

__all__ = ["Kept", "Recall"]


@dataclass(frozen=True)
class Kept:
    """What an evaluation had in the places of its modules, and how it was made.

    Attributes:
        values: (binding, parameters by name) of each module.
        buffers: (binding, values at the start) of each module that has any.
        modes: (binding, training modes) of each module.
        region: the block that the function was called in, if in one; see `Evaluator.regions`.
    """

    values: Sequence[tuple[Binding, dict[str, Tensor]]]
    buffers: Sequence[tuple[Binding, list[Tensor]]]
    modes: Sequence[tuple[Binding, list[bool]]]
    region: Callable[[], AbstractContextManager[Any]] | None = None


class Recall:
    """Evaluations of which parts are computed again when a gradient is taken.

    Activation checkpointing calls modules anew in the backward pass, long after other values have
    come into their places. Each operation of such an evaluation therefore begins by entering its
    point again: the values, copies of the buffers as they were, the modes. One point is entered at
    a time; the last one is left at the end of the pass, or where an evaluation begins inside of it.

    An evaluation's region is entered and left with each operation: autograd gives every operation
    the function modes with which the pass began, in whichever thread it runs.
    """

    def __init__(self) -> None:
        self.at: Kept | None = None  # the point that is entered
        self._swap = Swap()
        self._inside: list[ExitStack] = []  # the regions of operations that run, outermost first

    def keep(self, result: Any, inputs: Iterable[Tensor], kept: Kept) -> None:
        """Have the point entered before any operation between inputs and result runs backward.

        Args:
            result: what the evaluation gave.
            inputs: tensors that it read.
            kept: the point.
        """
        # The operations hold this, and it must not hold the result, or nothing would free them.
        enter = self._entering(kept)
        for node in operations(result, until=inputs):
            if node.next_functions:  # else it only adds to a leaf
                node.register_prehook(enter)
                if kept.region is not None:
                    node.register_hook(self._leave_region)

    def _entering(self, kept: Kept) -> Callable[[Any], None]:
        def enter(gradients: Any) -> None:
            del gradients
            if self.at is not kept:
                self._enter(kept)
            if kept.region is not None:
                self._inside.append(inside := ExitStack())
                inside.enter_context(kept.region())

        return enter

    def _leave_region(self, *gradients: Any) -> None:
        """Leave the innermost one, unless an evaluation in its operation has left all of them."""
        if self._inside:
            self._inside[-1].close()  # again, to no effect
            self._inside.pop()

    def _enter(self, kept: Kept) -> None:
        self.leave()
        self.at, self._swap = kept, (swap := Swap())
        for binding, tensors in kept.values:
            swap.put_all(binding.parameters, tensors)
        for binding, starts in kept.buffers:
            for (slot, key), start in zip(binding.buffers, copied(starts), strict=True):
                swap.put(slot, key, start)
        for binding, modes in kept.modes:
            swap.note_modes(binding.parts)
            binding.set_modes(modes)
        reading(True)
        torch.autograd.Variable._execution_engine.queue_callback(self.leave)  # type: ignore[attr-defined]

    def leave(self) -> None:
        """Put back what the modules held before a point was entered, if one is."""
        if self.at is not None:
            reading(False)
            while self._inside:  # of operations that have raised something, too
                self._leave_region()
            self._swap.back()
            self.at, self._swap = None, Swap()
