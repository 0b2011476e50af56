"""`Lent`: generators of random numbers that one way through a loader has for itself."""

from __future__ import annotations

import pickle
import random
from collections.abc import Sequence
from itertools import count
from typing import Any

import numpy as np
import torch

from .._replay import derive_seed

__all__ = ["Lent"]


class _Loan:
    """A generator, and where it goes on in the next block.

    Args:
        generator: of torch, Python or NumPy.
        order: how many others of the engine are lent it.
    """

    def __init__(self, generator: Any, order: int) -> None:
        self.generator, self.order = generator, order
        self.begin(_state(generator))

    def begin(self, found: Any) -> None:
        """Go on from a state in which it was found outside of the blocks."""
        self.state = _other(self.generator, found, self.order) if self.order else found
        self.found = found


class Lent:
    """Generators lent for a block, in which they go on from where the last one left them.

    After the block they are as they were before it. Their numbers begin from where they stand, and
    again from there at a pass before which somebody else has set them; but of a generator that
    somebody else of the same engine is lent as well, others are made: else two would draw the same
    numbers.

    Args:
        lenders: all of the engine; this one is added.
    """

    def __init__(self, lenders: list[Lent]) -> None:
        self._loans: list[_Loan] = []
        self._before: list[Any] = []
        self._lenders = lenders
        lenders.append(self)

    @property
    def states(self) -> tuple[tuple[Any, Any], ...]:
        """The generators, and where they go on."""
        return tuple((loan.generator, loan.state) for loan in self._loans)

    @states.setter
    def states(self, states: tuple[tuple[Any, Any], ...]) -> None:
        for loan in self._loans:
            for generator, state in states:
                if generator is loan.generator:
                    loan.state = state

    def lend(self, generators: Sequence[Any]) -> None:
        """From now on lend these; who was among them before goes on.

        Args:
            generators: of torch, Python or NumPy.
        """
        known = {id(loan.generator): loan for loan in self._loans}
        self._loans = [known.get(id(g)) or _Loan(g, self._order(g)) for g in generators]

    def _order(self, generator: Any) -> int:
        loans = [loan for lent in self._lenders for loan in lent._loans]
        taken = {loan.order for loan in loans if loan.generator is generator}
        return next(n for n in count() if n not in taken)

    def begin(self) -> None:
        """A pass begins: who was set anew since the last one did goes on from there."""
        for loan in self._loans:
            found = _state(loan.generator)
            if not _same(loan.found, found):  # a block puts it back, so this is somebody else's
                loan.begin(found)

    def __enter__(self) -> None:
        self._before = [_state(loan.generator) for loan in self._loans]
        for loan in self._loans:
            _set(loan.generator, loan.state)

    def __exit__(self, *exception: object) -> None:
        for loan in self._loans:
            loan.state = _state(loan.generator)
        self.close()

    def close(self) -> None:
        """Put the generators back, if an exception in the block's own end has kept it from that."""
        for loan, state in zip(self._loans, self._before, strict=False):
            _set(loan.generator, state)
        self._before = []  # of a block that has ended


def _state(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, np.random.RandomState):
        return generator.get_state(legacy=False)
    return generator.state


def _set(generator: Any, state: Any) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(state)
    else:
        generator.state = state


def _same(one: Any, two: Any) -> bool:
    """Whether two states of a generator are equal; those of NumPy's hold arrays."""
    if type(one) is not type(two):
        return False
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(_same(v, two[k]) for k, v in one.items())
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, two)
    return one == two


def _other(generator: Any, state: Any, number: int) -> Any:
    """Another state of such a generator, made from its own and a number."""
    text = state.numpy().tobytes() if isinstance(state, torch.Tensor) else pickle.dumps(state)
    seed = derive_seed("lent", text.hex(), number)
    if isinstance(generator, torch.Generator):
        return torch.Generator(generator.device).manual_seed(seed).get_state()
    if isinstance(generator, random.Random):
        return random.Random(seed).getstate()
    if isinstance(generator, np.random.RandomState):
        return np.random.RandomState(seed % 2**32).get_state(legacy=False)
    return type(generator)(seed).state
