"""The law of what is held: looked at again, it is what following it anew would find."""

from __future__ import annotations

import random
from collections import OrderedDict, defaultdict, deque
from typing import Any

import numpy as np
import pytest
import torch

from mlopt._containers.contents import contents
from mlopt._engine.holding import Holding, Holdings
from mlopt._engine.reach import reach
from mlopt._evaluation.listing import Listing, same_things


class Plain:
    """An object with attributes."""


class Slots:
    """One that keeps them in slots."""

    __slots__ = ("a", "b")


def leaf(rng: random.Random) -> Any:
    kind = rng.randrange(7)
    if kind < 2:
        return torch.zeros(rng.randrange(3))
    return [1, 0.5, "x", None, (1, 2.0)][kind - 2]


def tree(rng: random.Random, depth: int = 0) -> Any:
    """Containers in containers, and objects."""
    if depth == 3 or rng.random() < 0.3:
        return leaf(rng)
    kind = rng.choice([dict, list, deque, OrderedDict, Plain, Slots, tuple, set, np.ndarray, Held])
    inside = [tree(rng, depth + 1) for _ in range(rng.randrange(1, 4))]
    if kind in (dict, OrderedDict):
        return kind(zip("abc", inside, strict=False))
    if kind is Held:
        return Held(list, zip("abc", inside, strict=False))
    if kind in (Plain, Slots):
        made = kind()
        for name, value in zip("ab", inside, strict=False):
            setattr(made, name, value)
        return made
    if kind is set:
        return {torch.zeros(1) for _ in inside}
    if kind is np.ndarray:
        made = np.empty(len(inside), object)
        made[:] = inside
        return made
    return kind(inside)


class Held(defaultdict):  # type: ignore[type-arg]
    """A dictionary of a class of the user's, which keeps something besides."""


def change(what: Any, rng: random.Random) -> None:
    """Change one container, somewhere inside."""
    found = reach(what, "")
    held = rng.choice([c for c in found.containers + found.arrays if not isinstance(c, type)])
    new = tree(rng, 1)
    if isinstance(held, dict):
        names = [k for k in held if isinstance(k, str)]
        if names and rng.random() < 0.3:
            held[rng.choice("ef")] = held.pop(names[-1])  # under another name, in the same place
        else:
            held[rng.choice("abcd")] = new
        if names and rng.random() < 0.3:
            held.pop(rng.choice(names), None)
    elif isinstance(held, list | deque):
        held.append(new)
        if rng.random() < 0.5:
            held.rotate() if isinstance(held, deque) else held.reverse()
    elif isinstance(held, set):
        held.add(torch.zeros(1))
    elif isinstance(held, np.ndarray):
        if held.dtype.hasobject:
            held[rng.randrange(len(held))] = new
    else:
        setattr(held, rng.choice("ab"), new)


def ids(things: Any) -> set[int]:
    return set(map(id, things))


@pytest.mark.parametrize("seed", range(40))
def test_what_is_looked_at_again_is_what_is_there(seed: int) -> None:
    rng = random.Random(seed)
    what = {"root": tree(rng), "more": [tree(rng)]}
    holding = Holding(what, "it")
    for _ in range(12):
        kept = ids(holding.reached.tensors)
        for _ in range(rng.randrange(3)):
            change(what, rng)
        if rng.random() < 0.5:
            came, _ = holding.news()
            assert ids(came) == ids(reach(what, "it").tensors) - kept
        else:
            holding.look()
        found, anew = holding.reached, reach(what, "it")
        for kind in ("tensors", "containers", "arrays"):
            assert ids(getattr(found, kind)) == ids(getattr(anew, kind))
        for container, content in zip(found.containers, holding.contents, strict=True):
            now = contents(container)
            assert list(map(id, now)) == list(map(id, content))
            if isinstance(now, dict):
                assert list(map(id, now.values())) == list(map(id, content.values()))
        assert set(found.closed) == set(anew.closed)


def test_it_is_followed_once_while_numbers_change() -> None:
    """A foreign optimizer that counts, and one whose moments stay the same tensors."""
    what = {"state": {"m": torch.zeros(2), "step": 0}, "lr": 0.1, "betas": (0.9, 0.99)}
    holding = Holding(what, "it")
    found = holding.reached
    for step in range(3):
        what["state"]["step"] = step  # type: ignore[index]
        what.update(lr=0.1 / (step + 1), betas=(0.5, 0.9))
        assert holding.news() == ([], False)
        holding.look()
        assert holding.reached is found
        assert holding.contents[0]["lr"] == what["lr"]


def test_tensors_are_grouped_anew_if_one_becomes_of_another_kind() -> None:
    one, other = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer, owner, holdings = torch.optim.SGD([one, other], 0.1), Owner(), Holdings()

    def groups() -> list[list[Any]]:
        return holdings.together([(owner, optimizer, "optimizer")]).groups

    found = groups()
    assert list(map(len, found)) == [2]
    assert groups() is found
    one.data = one.data.double()
    assert list(map(len, groups())) == [1, 1]


class Owner:
    name = "fit"


def test_the_order_of_an_ordered_dictionary_is_what_it_holds():
    """As of one from which the least recently used is dropped."""
    recent = OrderedDict(a=1, b=2, c=3)
    listed = Listing([recent])
    before = listed()
    recent.move_to_end("a")
    assert not same_things(before, listed())
    recent.move_to_end("b")
    recent.move_to_end("c")
    recent.move_to_end("a", last=False)
    assert same_things(before, listed())
