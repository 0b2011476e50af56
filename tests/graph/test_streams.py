"""Streams: one sequence of batches for all who share a loader."""

from __future__ import annotations

from collections import namedtuple

import pytest
import torch
from small import F64, assert_same, mlp, sgd
from torch import nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import mlopt


def numbers(count: int) -> list:
    """Batches that are their own index."""
    return [torch.tensor(float(i), dtype=F64) for i in range(count)]


class Endless(IterableDataset):
    """A data set that does not tell its length."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self):
        return iter(numbers(self.count))


def reader(data, name="reader", seen=None, given=(), over=None, **options):
    """A problem that notes its batches."""
    over = over or mlopt.Variable(nn.Parameter(torch.ones(1, dtype=F64)), f"v_{name}")
    notes: list = [] if seen is None else seen

    def fn(v, *rest):
        notes.append(rest[-1])
        return v.square().sum() + sum((r.sum() for r in rest[:-1]), start=torch.zeros(()))

    return mlopt.problem(
        over=over, given=list(given), data=data, optimizer=sgd(over), name=name, **options
    )(fn)


def taken(engine, seen, steps):
    """The batches of these steps, the check of what is read left out."""
    engine.hypergradient(engine.graph.problems[0])
    seen.clear()
    for _ in range(steps):
        engine.step()
    return seen


def test_one_loader_object_one_batch_a_step():
    data = DataLoader(numbers(5), batch_size=None, shuffle=True)
    low, mid, top = [], [], []
    W = mlopt.Variable(nn.Parameter(torch.ones(1, dtype=F64)), "w")

    @mlopt.signal(given=[W], data=data)
    def note(w, batch):
        mid.append(batch)
        return w * 1

    lower = reader(data, "lower", low, over=W)
    upper = reader(mlopt.Stream.of(data), "upper", top, given=[note])
    engine = mlopt.Engine([lower, note, upper], hypergrad=mlopt.Frozen())
    for _ in range(12):
        low.clear(), mid.clear(), top.clear()
        engine.step()
        assert {id(b) for b in [*low, *mid, *top]} == {id(low[0])}
        assert low
        assert mid
        assert top
    assert engine.epoch == 2


def test_two_streams_of_one_loader_go_their_own_ways():
    data = numbers(3)
    one, two = [], []
    problems = [
        reader(mlopt.Stream(data), "one", one, repeat=2),
        reader(mlopt.Stream(data), "two", two),
    ]
    engine = mlopt.Engine(problems)
    taken(engine, one, 0)
    two.clear()
    for _ in range(3):
        engine.step()
    assert [int(b) for b in one] == [0, 1, 2, 0, 1, 2]
    assert [int(b) for b in two] == [0, 1, 2]


def test_a_tuple_of_loaders_gives_a_tuple_and_a_list_is_a_loader():
    seen = []
    one, two = numbers(2), [b + 10 for b in numbers(3)]
    engine = mlopt.Engine([reader((one, two), seen=seen)])
    assert [(int(a), int(b)) for a, b in taken(engine, seen, 4)] == [
        (0, 10),
        (1, 11),
        (0, 12),
        (1, 10),
    ]
    seen = []
    engine = mlopt.Engine([reader((one,), seen=seen)])
    assert taken(engine, seen, 1) == [(one[0],)]
    pairs = [(torch.zeros(2), torch.ones(2)), (torch.ones(2), torch.zeros(2))]
    seen = []
    assert taken(mlopt.Engine([reader(pairs, seen=seen)]), seen, 2) == pairs


def test_a_batch_that_is_a_tensor_stays_one():
    """D36: not split along its first dimension; nor are batches with other than two parts."""
    loader = DataLoader(torch.randn(12, 3, 5), batch_size=4)
    seen = []
    (batch,) = taken(mlopt.Engine([reader(loader, seen=seen)]), seen, 1)
    assert isinstance(batch, torch.Tensor)
    assert batch.shape == (4, 3, 5)


@pytest.mark.parametrize(
    ("loader", "length"),
    [
        (numbers(4), 4),
        (tuple(numbers(4)) and DataLoader(numbers(4), batch_size=None), 4),
        (DataLoader(TensorDataset(torch.arange(10.0)), batch_size=3), 4),
        (DataLoader(TensorDataset(torch.arange(10.0)), batch_size=3, drop_last=True), 3),
        (DataLoader(Endless(3), batch_size=None), 3),
        (DataLoader(Endless(5), batch_size=2), 3),
        (DataLoader(Endless(5), batch_size=2, drop_last=True), 2),
        (Endless(1), 1),
    ],
)
def test_epochs(loader, length):
    """An epoch ends with the last batch of a pass, not with the first of the next."""
    engine = mlopt.Engine([reader(loader)])
    for n in range(1, 3 * length + 1):
        engine.hypergradient(engine.graph.problems[0])
        assert engine.epoch == (n - 1) // length
        engine.step()
        assert engine.epoch == n // length
    before = engine.steps
    engine.run(epochs=2, progress=False)
    assert engine.steps == before + 2 * length
    assert engine.epoch == 5


def test_epochs_are_those_of_the_named_stream():
    slow, fast = numbers(6), numbers(2)
    problems = [reader(slow, "slow"), reader(fast, "fast")]
    engine = mlopt.Engine(problems)
    engine.run(epochs=1, progress=False)
    assert engine.steps == 6  # the first problem's, unless said otherwise
    engine.run(epochs=2, epoch=fast, progress=False)
    assert engine.steps == 10
    engine = mlopt.Engine(problems)
    engine.run(epochs=2, epoch=problems[1].streams[0], progress=False)
    assert engine.steps == 4


def test_a_loader_that_gives_less_than_it_says():
    class Short(list):
        def __len__(self):
            return 5

    engine = mlopt.Engine([reader(Short(numbers(2)))])
    engine.run(steps=2, progress=False)
    with pytest.warns(mlopt.CapabilityWarning, match="Short ended.* after 2 batches.*says 5"):
        engine.step()
    assert engine.epoch == 1
    engine.run(epochs=2, progress=False)
    assert (engine.epoch, engine.steps) == (3, 6)


def shuffled(seed: int, steps: int = 7, ask: bool = False) -> list:
    loader = DataLoader(numbers(4), batch_size=None, shuffle=True)
    other = DataLoader(numbers(4), batch_size=None, shuffle=True)
    seen, more = [], []
    problems = [reader(loader, "one", seen), reader(other, "two", more)]
    engine = mlopt.Engine(problems, seed=seed)
    taken(engine, seen, 0)
    more.clear()
    for _ in range(steps):
        engine.step()
    return [[int(b) for b in seen], [int(b) for b in more]]


def test_the_engine_seeds_the_shuffling():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = shuffled(0, 16)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert one == shuffled(0, 16)
    assert one != shuffled(1, 16)
    assert one[0] != one[1]  # two streams do not shuffle alike
    passes = [tuple(one[0][i : i + 4]) for i in range(0, 16, 4)]
    assert all(sorted(p) == [0, 1, 2, 3] for p in passes)
    assert len(set(passes)) > 1  # nor does every pass


def test_two_engines_of_one_seed_give_equal_bits():
    def run():
        x, y = torch.randn(20, 3, dtype=F64, generator=torch.Generator().manual_seed(1)), None
        y = x.sum(1, keepdim=True)
        loader = DataLoader(TensorDataset(x, y), batch_size=6, shuffle=True)
        net = nn.Sequential(mlp(), nn.Dropout(0.2))
        W = mlopt.Variable(net, "w")

        @mlopt.problem(over=W, data=loader, optimizer=sgd(W))
        def fit(w, batch):
            return mse_loss(w(batch[0]), batch[1])

        mlopt.Engine([fit], seed=4).run(epochs=3, progress=False)
        return dict(net.state_dict())

    assert_same(run(), run())


def test_random_augmentation_in_the_loader_is_seeded():
    class Augmented(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, i):
            return i + torch.rand((), dtype=F64)

    def run():
        seen: list = []
        engine = mlopt.Engine([reader(DataLoader(Augmented(), batch_size=2), seen=seen)], seed=1)
        return [b.clone() for b in taken(engine, seen, 4)]

    before = torch.get_rng_state()
    first = run()
    assert_same(first, run())
    assert not torch.equal(first[0], first[2])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_new_engine_starts_the_pass_anew():
    data = numbers(4)
    seen: list = []
    problem = reader(data, seen=seen)
    taken(mlopt.Engine([problem]), seen, 3)
    assert [int(b) for b in taken(mlopt.Engine([problem]), seen, 3)] == [0, 1, 2]


Pair = namedtuple("Pair", ["image", "label"])


class Thing:
    """Not a tensor, but can be moved."""

    def __init__(self) -> None:
        self.device = None

    def to(self, device, non_blocking=False):
        self.device = device
        return self


class Packed(namedtuple("Packed", ["data", "sizes"])):
    """A tuple that moves itself, as packed sequences do."""

    __slots__ = ()

    def to(self, device, non_blocking=False):
        return Packed(self.data.to(device), self.sizes)


def test_nested_batches_are_moved():
    thing = Thing()
    x = torch.zeros(2)
    batch = {"pair": Pair(x, [x, (x, "text", 3, None)]), "thing": thing, "packed": Packed(x, x)}
    seen: list = []
    W = mlopt.Variable(nn.Parameter(torch.ones(1)), "w")

    @mlopt.problem(over=W, data=[batch], optimizer=sgd(W))
    def fit(w, batch):
        seen.append(batch)
        return w.sum()

    mlopt.Engine([fit], device="meta").step()
    moved = seen[-1]
    pair = moved["pair"]
    assert type(pair) is Pair
    assert type(pair.label) is list
    assert type(pair.label[1]) is tuple
    assert pair.label[1][1:] == ("text", 3, None)
    assert {pair.image.device.type, pair.label[0].device.type, pair.label[1][0].device.type} == {
        "meta"
    }
    assert thing.device == torch.device("meta")
    assert type(moved["packed"]) is Packed
    assert moved["packed"].data.device.type == "meta"
    assert moved["packed"].sizes.device.type == "cpu"
    assert x.device.type == "cpu"

    seen.clear()
    mlopt.Engine([fit]).step()
    assert type(seen[-1]["thing"]) is Thing  # without a device, what the loader gave, anew
    assert seen[-1]["pair"].image is batch["pair"].image
