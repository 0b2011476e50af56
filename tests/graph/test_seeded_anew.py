"""Who seeds a loader's generator anew gets the order that a plain loop has from there."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from graph.test_lent_generators import COUNT, KINDS, Data, Noise, Order, data_of, engine_over, take
from torch.utils.data import DataLoader


def seed(generator: Any, at: int) -> None:
    if isinstance(generator, torch.Generator):
        generator.manual_seed(at)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = type(generator.bit_generator)(at).state
    else:
        generator.seed(at)


def put(generator: Any, at: int) -> None:
    """The same through a state."""
    if isinstance(generator, torch.Generator):
        generator.set_state(torch.Generator().manual_seed(at).get_state())
    elif isinstance(generator, random.Random):
        generator.setstate(random.Random(at).getstate())
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(np.random.RandomState(at).get_state())
    else:
        seed(generator, at)


def loader_of(kind: str) -> tuple[Any, Any]:
    make, draw = KINDS[kind]
    generator = make(0)
    return generator, DataLoader(Data(), batch_size=1, sampler=Order(Noise(generator, draw)))


ANEW = {1: 101, 3: 7}  # before these passes, from these seeds


def plain(kind: str) -> list[float]:
    generator, loader = loader_of(kind)
    found: list[float] = []
    for number in range(5):
        if number in ANEW:
            seed(generator, ANEW[number])
        found += [float(x) for x in loader]
    return found


@pytest.mark.parametrize("how", [seed, put])
@pytest.mark.parametrize("kind", KINDS)
def test_the_next_pass_begins_from_the_new_seed(kind: str, how: Callable[[Any, int], None]) -> None:
    """For each of two engines, whichever comes first; also where draws fail and are done again."""
    generator, loader = loader_of(kind)
    one, two = engine_over(loader), engine_over(loader)
    mine: list[float] = []
    theirs: list[float] = []
    for step in range(5 * COUNT):
        if step % COUNT == 0 and step // COUNT in ANEW:
            how(generator, ANEW[step // COUNT])
        if step % COUNT in (0, 4):
            data_of(loader).fails = [True]
            with pytest.raises(OSError, match="once"):
                take(*one)
        mine += take(*one)
        theirs += take(*two)
    assert mine == theirs == plain(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pass_goes_on_though_it_is_seeded_in_its_middle(kind: str) -> None:
    generator, loader = loader_of(kind)
    engine = engine_over(loader)
    found: list[float] = []
    for step in range(5 * COUNT):
        if step % COUNT == 2 and step // COUNT + 1 in ANEW:
            seed(generator, ANEW[step // COUNT + 1])
            data_of(loader).fails = [True]
            with pytest.raises(OSError, match="once"):
                take(*engine)
        found += take(*engine)
    assert found == plain(kind)


def test_two_loaders_of_an_engine_stay_unlike() -> None:
    make, draw = KINDS["torch"]
    generator = make(0)
    noise = Noise(generator, draw)
    engine = engine_over(*(DataLoader(Data(noise), batch_size=1) for _ in range(2)))
    drawn = []
    for at in (3, 4, 3):
        seed(generator, at)
        drawn.append([take(*engine) for _ in range(COUNT)])
    assert drawn[0] == drawn[2]
    assert len({x for rows in drawn[:2] for row in rows for x in row}) == 4 * COUNT
