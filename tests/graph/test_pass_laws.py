"""Laws of passes: every batch once and in order, passes that end where the loader ends them.

Over random loaders: with right, wrong and no lengths, other ones in each pass, draws that fail.
"""

from __future__ import annotations

import os
import random
import sys

import numpy as np
import pytest
import torch
from graph.test_streams import numbers, reader
from small import F64, assert_same, state_of
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

import mlopt
from mlopt import DataError

PASSES = 4


class Told:
    """Gives 100 k + i as batch i of pass k, where `set_epoch` says which pass it is.

    Args:
        lengths: of the passes.
        fails: (pass, batch) at which a draw fails, once each.
    """

    def __init__(self, lengths: list[int], fails=()) -> None:
        self.lengths, self.fails, self.epoch = lengths, set(fails), None

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self):
        epoch = self.epoch
        for i in range(self.lengths[epoch % len(self.lengths)] + 1):
            if (epoch, i) in self.fails:
                self.fails.remove((epoch, i))
                raise OSError("once")
            if i < self.lengths[epoch % len(self.lengths)]:
                yield torch.tensor(100.0 * epoch + i, dtype=F64)


def saying(length):
    """The same with a length, which may be wrong or none."""

    class Says(Told):
        def __len__(self):
            return length

    return Says


class TellsData(Told, IterableDataset):
    """The same as a data set, which a `DataLoader` tells its length."""

    def __len__(self):
        return 3


def ends_of(lengths, said):
    """After how many batches each pass is counted: a length that is too long is believed once."""
    ends, believed = [], said is not None
    for k, n in enumerate(lengths):
        late = believed and said > n
        ends.append(sum(lengths[: k + 1]) + late)
        believed = believed and not late
    return ends


def random_loader(draw: random.Random):
    lengths = [draw.randint(1, 4) for _ in range(PASSES)]
    fails = [(k, i) for k, n in enumerate(lengths) for i in range(n + 1) if draw.random() < 0.15]
    kind = draw.choice(["right", "wrong", "none", "bad", "data"])
    if kind == "data":
        loader = DataLoader(TellsData(lengths, fails), batch_size=None)
        return lengths, loader, ends_of(lengths, 3), len(fails)
    said = {"right": lengths[0], "wrong": draw.randint(1, 6), "none": None, "bad": -1}[kind]
    loader = (Told if said is None else saying(said))(lengths, fails)
    return lengths, loader, ends_of(lengths, said), len(fails)


@pytest.mark.filterwarnings("ignore:Length of IterableDataset")  # torch's own
@pytest.mark.filterwarnings("ignore:.*not believed again:mlopt.CapabilityWarning")
@pytest.mark.parametrize("seed", range(30))
def test_every_batch_is_used_once_in_order_and_passes_end_where_they_end(seed):
    """By each of two engines over one loader object, whatever falls into their draws."""
    draw = random.Random(seed)
    lengths, loader, ends, fails = random_loader(draw)
    expected = [100.0 * k + i for k, n in enumerate(lengths) for i in range(n)]
    expected += [100.0 * PASSES] * (ends[-1] - len(expected))  # the one that finds the last end
    seen: list[list] = [[], []]
    engines = [mlopt.Engine([reader(loader, seen=notes)]) for notes in seen]
    took: list[list[float]] = [[], []]
    failed = 0
    while any(len(t) < len(expected) for t in took):
        which = draw.choice([k for k in (0, 1) if len(took[k]) < len(expected)])
        engine = engines[which]
        before = state_of(engine)
        try:
            if draw.random() < 0.2:
                engine.hypergradient(engine.graph.problems[0])
            engine.step()
        except OSError as error:
            failed += 1
            said = getattr(error, "__notes__", [])
            assert_same(before, state_of(engine))
            assert bool(said) == (sys.version_info >= (3, 11))
            assert all("raised by" in note for note in said)
            continue
        took[which].append(float(seen[which][-1]))
        assert engine.epoch == sum(end <= len(took[which]) for end in ends)
    assert took[0] == took[1] == expected
    assert failed == fails


@pytest.mark.filterwarnings("ignore:.*not believed again:mlopt.CapabilityWarning")
@pytest.mark.parametrize("lengths", [[2], [5], [1, 4, 2]])
@pytest.mark.parametrize("said", [1, 3, 6])
def test_a_run_of_epochs_is_as_long_as_the_passes(lengths, said):
    engine = mlopt.Engine([reader(saying(said)(lengths))])
    engine.run(epochs=3, progress=False)
    assert engine.steps == ends_of((lengths * 3)[:3], said)[-1]


class Kept(Dataset):
    def __init__(self) -> None:
        self.stops = False

    def __len__(self):
        return 4

    def __getitem__(self, i):
        if self.stops and i == 2:
            raise StopIteration
        return torch.tensor(float(i), dtype=F64)


def test_a_pass_that_ends_before_a_length_that_is_certain_is_an_error():
    data = Kept()
    engine = mlopt.Engine([reader(DataLoader(data, batch_size=1))])
    engine.run(steps=5, progress=False)
    data.stops = True
    engine.step()
    before = state_of(engine)
    with pytest.raises(DataError, match="Kept ended its pass after 2 batches.*StopIteration"):
        engine.step()
    assert_same(before, state_of(engine))
    data.stops = False
    engine.run(steps=2, progress=False)
    assert engine.epoch == 2


def test_what_can_be_read_only_once_is_an_error_in_the_second_pass():
    class Once:
        def __init__(self):
            self.batches = iter(numbers(2))

        def __iter__(self):
            return self.batches

    engine = mlopt.Engine([reader(Once())])
    engine.run(steps=2, progress=False)
    assert engine.epoch == 1
    with pytest.raises(DataError, match="Once gave no batch.*pass 1.*read once only"):
        engine.step()


def test_one_iterator_for_all_serves_one_engine_and_is_refused_to_a_second():
    class Shared:
        def __init__(self):
            self.made = (x for x in numbers(9))

        def __iter__(self):
            return self.made

    data, seen = Shared(), []
    one = mlopt.Engine([reader(data, seen=seen)])
    one.run(steps=3, progress=False)
    with pytest.raises(DataError, match="Shared hands out one iterator.*loader of its own"):
        mlopt.Engine([reader(data)]).step()
    one.run(steps=3, progress=False)
    assert [float(x) for x in dict.fromkeys(seen)] == [0, 1, 2, 3, 4, 5]


class Epochs(Sampler):
    """Another order in each pass that it is told of; it notes what it was told."""

    def __init__(self, count: int) -> None:
        self.count, self.epoch, self.told = count, 0, []

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.told.append(epoch)

    def __len__(self):
        return self.count

    def __iter__(self):
        g = torch.Generator().manual_seed(self.epoch)
        return iter(torch.randperm(self.count, generator=g).tolist())


@pytest.mark.parametrize("as_batches", [True, False])
def test_samplers_are_told_the_pass(as_batches):
    sampler = Epochs(6)
    loader = DataLoader(numbers(6), batch_size=2 if as_batches else None, sampler=sampler)
    expected = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        expected += [x.flatten() for x in loader]
    sampler.told.clear()
    seen: list = []
    engine = mlopt.Engine([reader(loader, seen=seen)])
    engine.run(epochs=3, progress=False)
    assert_same([x.flatten() for x in seen[-len(expected) :]], expected)
    assert sampler.told == [0, 1, 2]


@pytest.mark.parametrize("replacement", [True, False])
def test_a_generator_of_the_loader_serves_each_engine_and_stays_where_it_is(replacement):
    """The usual way to seed a shuffle; also where a pass is gone through again."""
    generator = torch.Generator().manual_seed(3)
    data = Fails(40)
    loader = DataLoader(
        data,
        batch_size=5,
        generator=generator,
        sampler=torch.utils.data.RandomSampler(data, replacement, generator=generator),
    )

    def order(*fails):
        seen: list = []
        engine = mlopt.Engine([reader(loader, seen=seen)])
        while engine.steps < 20:
            data.fails = engine.steps in fails and not data.failed
            try:
                engine.step()
            except OSError:
                continue
            data.failed = False
        return torch.stack(seen[-20:])

    state = generator.get_state()
    expected = order()
    assert_same(order(3, 12), expected)
    assert torch.equal(generator.get_state(), state)
    batches = [x.double() for _ in range(3) for x in loader]
    assert_same(expected, torch.stack(batches[:20]))


class Fails(Dataset):
    def __init__(self, count):
        self.count, self.fails, self.failed = count, False, False

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        if self.fails:
            self.fails, self.failed = False, True
            raise OSError("once")
        return float(i)


@pytest.mark.parametrize("shuffle", [random.shuffle, np.random.shuffle])
def test_no_batch_is_lost_where_a_loader_shuffles_by_python_or_numpy(shuffle):
    fails = {(1, 3), (2, 1), (2, 4)}

    class Shuffled:
        passes = 0

        def __iter__(self):
            order = list(range(5))
            shuffle(order)
            for i, x in enumerate(order):
                if (self.passes, i) in fails:
                    fails.remove((self.passes, i))
                    raise OSError("once")
                yield torch.tensor(float(x), dtype=F64)
            self.passes += 1

    seen: list = []
    engine = mlopt.Engine([reader(Shuffled(), seen=seen)])
    took: list[float] = []
    while len(took) < 20:
        try:
            engine.step()
        except OSError:
            continue
        took.append(float(seen[-1]))
    assert not fails
    for k in range(0, 20, 5):
        assert sorted(took[k : k + 5]) == [0, 1, 2, 3, 4]


class Dies(Dataset):
    """Ends the worker that prepares a batch, as the kernel does where memory runs out."""

    def __init__(self, at: int, mark) -> None:
        self.at, self.mark = at, mark

    def __len__(self):
        return 6

    def __getitem__(self, i):
        if i == self.at and not self.mark.exists():
            self.mark.touch()
            os._exit(1)
        return torch.tensor(float(i), dtype=F64)


@pytest.mark.filterwarnings("ignore:.*fork")  # that forking is unsafe beside threads
@pytest.mark.parametrize("persistent", [True, False])
def test_engines_over_persistent_workers_and_a_worker_that_dies(persistent, tmp_path):
    """An engine goes on where the worker died; another, and the user's loop, see nothing of it."""
    data = Dies(4, tmp_path / "died")
    loader = DataLoader(
        data, batch_size=1, num_workers=1, prefetch_factor=1, persistent_workers=persistent
    )
    seen: list[list] = [[], []]
    engines = [mlopt.Engine([reader(loader, seen=notes)]) for notes in seen]
    for _ in range(2):
        for engine in engines:
            engine.step()
    errors = []
    while engines[0].steps < 9:
        try:
            engines[0].run(steps=9 - engines[0].steps, progress=False)
        except RuntimeError as error:  # torch raises it in a draw, or by a signal at any place
            errors.append(str(error))
        assert len(errors) < 4
    assert errors
    assert all("worker" in error for error in errors)
    mine = [float(x) for x in loader]
    engines[1].run(steps=7, progress=False)
    assert mine == [0, 1, 2, 3, 4, 5]
    for notes in seen:
        assert [float(x) for x in dict.fromkeys(notes)] == [0, 1, 2, 3, 4, 5, 0, 1, 2]
    assert engines[0].epoch == engines[1].epoch == 1
