"""`Lent`: generators of random numbers that one way through a loader has for itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

from .generators import get_state, load_state, other_state, save_state, seed_of, set_state

__all__ = ["Lent"]


class _Loan:
    """A generator, and where it goes on in the next block.

    Args:
        generator: of torch, Python or NumPy.
        order: how many others of the engine are lent it.
    """

    def __init__(self, generator: Any, order: int) -> None:
        self.generator, self.order = generator, order
        self.begin()

    def begin(self) -> None:
        """Go on from where it stands, outside of the blocks."""
        found = get_state(self.generator)
        self.state = other_state(self.generator, found, self.order) if self.order else found
        self.seed = seed_of(self.generator)


class Lent:
    """Generators lent for a block, in which they go on from where the last one left them.

    After the block they are as they were before it. Their numbers begin from where they stand, and
    again from there at a pass before which somebody has given one another seed; who has drawn from
    it meanwhile changes nothing. But of a generator that somebody else of the same engine is lent
    as well, others are made: else two would draw the same numbers.

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

    def save(self, states: tuple[tuple[Any, Any], ...] | None) -> list[Any] | None:
        """Where they stood, as it is saved; None for None."""
        return None if states is None else [save_state(state) for _, state in states]

    def load(self, saved: Sequence[Any] | None) -> tuple[tuple[Any, Any], ...] | None:
        """The way back, for those that are lent now, in the same order."""
        if saved is None:
            return None
        generators = (loan.generator for loan in self._loans)
        return tuple((g, load_state(g, s)) for g, s in zip(generators, saved, strict=True))

    def save_all(self) -> list[dict[str, Any]]:
        """Where each goes on, and where it stands outside of blocks; as it is saved."""
        return [
            {
                "state": save_state(loan.state),
                "outside": save_state(get_state(loan.generator)),
                "seed": loan.seed,
            }
            for loan in self._loans
        ]

    def load_all(self, saved: Sequence[Mapping[str, Any]]) -> None:
        """The way back, for those that are lent now, in the same order."""
        for loan, found in zip(self._loans, saved, strict=True):
            loan.state = load_state(loan.generator, found["state"])
            loan.seed = found["seed"]  # another one outside begins the next pass
            set_state(loan.generator, load_state(loan.generator, found["outside"]))

    def begin(self) -> None:
        """A pass begins: who has another seed since the last one did goes on from there."""
        for loan in self._loans:
            if seed_of(loan.generator) != loan.seed:
                loan.begin()

    def __enter__(self) -> None:
        self._before = [get_state(loan.generator) for loan in self._loans]
        for loan in self._loans:
            set_state(loan.generator, loan.state)

    def __exit__(self, *exception: object) -> None:
        for loan in self._loans:
            loan.state = get_state(loan.generator)
        self.close()

    def close(self) -> None:
        """Put the generators back, if an exception in the block's own end has kept it from that."""
        for loan, state in zip(self._loans, self._before, strict=False):
            set_state(loan.generator, state)
        self._before = []  # of a block that has ended
