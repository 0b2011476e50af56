"""Who seeds a loader's generator anew gets the order that a plain loop has from there."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from graph.test_lent_generators import COUNT, KINDS, Data, Noise, Order, data_of, engine_over, take
from torch import Generator
from torch.utils.data import DataLoader

ANEW = {1: 101, 3: 7}  # before these passes, from these seeds
PASSES = 5


def seed(generator: Generator, at: int) -> None:
    generator.manual_seed(at)


def put(generator: Generator, at: int) -> None:
    """The same through a state."""
    generator.set_state(Generator().manual_seed(at).get_state())


def loader_of(kind: str) -> DataLoader:
    make, draw = KINDS[kind]
    return DataLoader(Data(), batch_size=1, sampler=Order(Noise(make(0), draw)))


def generator_of(loader: DataLoader) -> Generator:
    return loader.sampler.noise.generator  # type: ignore[attr-defined]


def plain() -> list[float]:
    loader = loader_of("torch")
    found: list[float] = []
    for number in range(PASSES):
        if number in ANEW:
            seed(generator_of(loader), ANEW[number])
        found += [float(x) for x in loader]
    return found


@pytest.mark.parametrize("how", [seed, put])
def test_the_next_pass_begins_from_the_new_seed(how: Callable[[Generator, int], None]) -> None:
    """For each of two engines, whichever comes first; also where draws fail and are done again."""
    loader = loader_of("torch")
    one, two = engine_over(loader), engine_over(loader)
    mine: list[float] = []
    theirs: list[float] = []
    for step in range(PASSES * COUNT):
        if step % COUNT == 0 and step // COUNT in ANEW:
            how(generator_of(loader), ANEW[step // COUNT])
        if step % COUNT in (0, 4):
            data_of(loader).fails = [True]
            with pytest.raises(OSError, match="once"):
                take(*one)
        mine += take(*one)
        theirs += take(*two)
    assert mine == theirs == plain()


def test_a_pass_goes_on_though_it_is_seeded_in_its_middle() -> None:
    loader = loader_of("torch")
    engine = engine_over(loader)
    found: list[float] = []
    for step in range(PASSES * COUNT):
        if step % COUNT == 2 and step // COUNT + 1 in ANEW:
            seed(generator_of(loader), ANEW[step // COUNT + 1])
            data_of(loader).fails = [True]
            with pytest.raises(OSError, match="once"):
                take(*engine)
        found += take(*engine)
    assert found == plain()


@pytest.mark.parametrize("kind", KINDS)
def test_a_loop_of_the_users_is_no_new_seed(kind: str) -> None:
    """It draws from the generator, between the engine's passes and in the middle of them."""
    alone, loader = loader_of(kind), loader_of(kind)
    expected = [x for _ in range(PASSES) for x in alone]
    engine = engine_over(loader)
    found: list[float] = []
    for step in range(PASSES * COUNT):
        if step % (COUNT - 1) == 0:
            assert len(list(loader)) == COUNT
        found += take(*engine)
    assert found == [float(x) for x in expected]


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


@pytest.mark.parametrize("at", [0, 1, COUNT - 1, COUNT])
@pytest.mark.parametrize("how", [seed, put])
def test_a_state_knows_of_the_new_seed(how: Callable[[Generator, int], None], at: int) -> None:
    """Which was given between two passes, or before the end of one, and then it was saved."""
    loader = loader_of("torch")
    engine, notes = engine_over(loader)
    for _ in range(at):
        take(engine, notes)
    how(generator_of(loader), 101)
    state = engine.state_dict()
    expected = [take(engine, notes) for _ in range(2 * COUNT)]
    other, notes = engine_over(loader_of("torch"))
    other.load_state_dict(state)
    assert [take(other, notes) for _ in range(2 * COUNT)] == expected


def test_a_state_knows_of_another_generator() -> None:
    loader = loader_of("torch")
    engine, notes = engine_over(loader)
    for _ in range(COUNT):
        take(engine, notes)
    loader.sampler.noise.generator = Generator().manual_seed(7)  # type: ignore[attr-defined]
    state = engine.state_dict()
    expected = [take(engine, notes) for _ in range(2 * COUNT)]
    other, notes = engine_over(loader_of("torch"))
    other.load_state_dict(state)
    assert [take(other, notes) for _ in range(2 * COUNT)] == expected
