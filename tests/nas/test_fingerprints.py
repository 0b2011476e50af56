"""What tells networks and data apart, by which `retrain` knows its own checkpoint."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from nas.test_checkpoint import Mapped, Net, X, Y, batches, changed, listed
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from mlopt.data import load
from mlopt.data import loader as image_loader
from mlopt.nas import GENOTYPES, EvaluationNetwork, Genotype
from mlopt.nas.fingerprint import answers, data_fingerprint, network_fingerprint, same_answers

# What tells networks and data apart.


def moved(genotype: Genotype, kind: str, place: int, source: int) -> Genotype:
    pairs = list(getattr(genotype, kind))
    pairs[place] = (pairs[place][0], source)
    return dataclasses.replace(genotype, **{kind: tuple(pairs)})


@pytest.mark.parametrize(("kind", "place", "source"), [("normal", 2, 1), ("normal", 7, 4),
                                                       ("reduce", 7, 0)])  # fmt: skip
def test_an_edge_elsewhere_is_another_network(kind, place, source):
    """With the same names, shapes and layers: only what comes out is another."""
    options = {"channels": 4, "layers": 3, "in_channels": 1, "auxiliary": False}
    a = EvaluationNetwork(GENOTYPES["DARTS_V2"], **options)
    b = EvaluationNetwork(moved(GENOTYPES["DARTS_V2"], kind, place, source), **options)
    x = torch.rand(2, 1, 8, 8)
    if network_fingerprint(a) == network_fingerprint(b):
        assert not same_answers(answers(b, x, a.state_dict()), answers(a, x))
    assert same_answers(answers(copy.deepcopy(a), x), answers(a, x))


def test_to_be_asked_changes_nothing_and_what_has_no_answer_is_not_held_against_it():
    class Noisy(Net):
        calls = 0

        def forward(self, x):
            self.outer.bias.data.add_(1)
            return super().forward(x + torch.rand(()))

    network, fresh = Noisy().train(), Net().train()
    network.inner[2].eval()
    before, state = copy.deepcopy(network.state_dict()), torch.random.get_rng_state()
    first = answers(network, X)
    assert first is not None
    assert answers(fresh, X[:1]) is not None  # too few for BatchNorm in training mode
    assert same_answers(answers(network, X), first)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [m.training for m in network.modules()] == [m is not network.inner[2] for m in
                                                       network.modules()]  # fmt: skip
    for strange in (None, [X], X[:, :2]):
        assert answers(network, strange) is None
    assert same_answers(None, first)


def test_data_is_read_where_it_lies():
    """Nothing is drawn, and no batch is made."""

    class Counted(TensorDataset):
        def __getitem__(self, index):
            raise AssertionError("read")

    state = torch.random.get_rng_state()
    found = data_fingerprint(DataLoader(Counted(X, Y), batch_size=8, shuffle=True))
    assert found["data: the number of batches"] == "3"
    assert torch.equal(torch.random.get_rng_state(), state)


class Own:
    """A loader of somebody's own."""

    def __init__(self, **parts):
        vars(self).update(parts)


class Endless(IterableDataset):
    def __init__(self, words):
        self.words = words

    def __iter__(self):
        raise AssertionError("read")


PAIRS = {
    "list of batches": (listed(), listed(y=changed(Y, 0, 2))),
    "arrays": (Own(x=np.arange(6)), Own(x=np.arange(6)[::-1])),
    "names": (Own(files=["a", "b"]), Own(files=["a", "c"])),
    "labelled names": (Own(files=[("a", 0)]), Own(files=[("a", 1)])),
    "nested": (Own(part=Own(y=Y)), Own(part=Own(y=Y + 1))),
    "functions": (Own(change=abs), Own(change=len)),
    "subsets": (DataLoader(Subset(TensorDataset(X), [0, 1])),
                DataLoader(Subset(TensorDataset(X), [0, 2]))),
    "iterable": (DataLoader(Endless(["a"])), DataLoader(Endless(["b"]))),
    "kind": (DataLoader(TensorDataset(X)), DataLoader(Mapped(X))),
    "order": (batches(), DataLoader(TensorDataset(X, Y), batch_size=8)),
    "types": (listed(), listed(x=X.double())),
    "shapes": (listed(), listed(x=X.view(24, 2, 2))),
    "digits": (image_loader(load("digits").train, 64), image_loader(load("digits").test, 64)),
    "modules": (Own(change=nn.Linear(1, 1)), Own(change=nn.Linear(1, 1))),
    "tables": (Own(objects=np.array(["a", None])), Own(objects=np.array(["b", None]))),
}  # fmt: skip


@pytest.mark.parametrize(("one", "other"), PAIRS.values(), ids=PAIRS)
def test_other_data_is_another_and_the_same_is_the_same(one, other):
    assert data_fingerprint(one) == data_fingerprint(copy.deepcopy(one))
    assert data_fingerprint(one) != data_fingerprint(other)


def test_what_changes_by_being_used_is_not_the_data():
    data = Own(x=X, folder=Path("/here/files"), generator=torch.Generator(), itself=None)
    before = data_fingerprint(data)
    data.generator.manual_seed(4)
    data._cache, data.folder = [1, 2], Path("/there/files")
    assert data_fingerprint(data) == before
    data.itself = data
    assert data_fingerprint(data) != before  # and ends
