"""Loaders that say by `state_dict` where they stand go there; those that do not are read again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from engine.chaos import held, take
from engine.test_resume import X, Y, saved
from small import Bilevel, assert_same, bilevel, mlp
from torch.utils.data import DataLoader, Dataset

import mlopt
from mlopt import CapabilityWarning, SettingsError


class Says:
    """The protocol of torchdata's StatefulDataLoader, in a shuffled loader that counts reads."""

    def __init__(self, sized: bool = True) -> None:
        self.reads, self.sized = 0, sized
        self.order: list[int] = []
        self.at = 0
        self.waiting: dict[str, Any] | None = None

    def __len__(self) -> int:
        if self.sized:
            return 4
        raise TypeError("unknown")

    def __iter__(self) -> Iterator[Any]:
        if self.waiting is None:
            self.order, self.at = torch.randperm(11).tolist(), 0
        else:
            self.order, self.at = self.waiting["order"], self.waiting["at"]
        self.waiting = None
        return self._rest()

    def _rest(self) -> Iterator[Any]:
        while self.at < 4:
            i = self.order[3 * self.at : 3 * self.at + 3]
            self.at += 1
            self.reads += 1
            yield X[i] + 0.1 * torch.rand(len(i), 1, dtype=X.dtype), Y[i]

    def state_dict(self) -> dict[str, Any]:
        return {"order": list(self.order), "at": self.at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.waiting = state


class Named(Says):
    """Batches that cannot be saved as they are."""

    def _rest(self) -> Iterator[Any]:
        for x, y in super()._rest():
            yield torch.return_types.max((x, y))


class Plain(Says):
    state_dict = load_state_dict = None  # type: ignore[assignment]


def reading(loader: Any) -> Bilevel:
    return bilevel(mlp(), train=loader, valid=[(X, Y)])


def resumed(make: Any, at: int, steps: int = 10) -> tuple[Any, int]:
    """The loader of a run that was resumed, which is the run in one go; its reads by then."""
    engine = reading(make()).engine()
    take(engine, at)
    state = saved(engine.state_dict())
    take(engine, steps - at)
    loader = make()
    other = reading(loader).engine()
    other.load_state_dict(state)
    reads = getattr(loader, "reads", 0)
    again = saved(other.state_dict())
    take(other, steps - at)
    assert_same(held(engine), held(other))
    assert_same(state["streams"], again["streams"])  # to save once more is the same
    return loader, reads


@pytest.mark.parametrize("at", [1, 2, 4, 5, 7])
@pytest.mark.parametrize("sized", [True, False])
def test_a_loader_goes_where_it_says_that_it_stood(sized: bool, at: int) -> None:
    _, reads = resumed(lambda: Says(sized), at)
    assert reads == 1  # by the first check


def test_batches_of_other_classes_are_drawn_again() -> None:
    """A loader of unknown length is one batch ahead, and that one cannot be saved."""
    _, reads = resumed(lambda: Named(sized=False), 2)
    assert reads == 1 + 3


def test_a_state_is_taken_to_a_loader_that_has_none() -> None:
    engine, other = reading(Says()).engine(), reading(Plain()).engine()
    take(engine, 6)
    other.load_state_dict(saved(engine.state_dict()))
    take(engine, 4)
    take(other, 4)
    assert_same(held(engine), held(other))


def test_of_a_loader_that_two_read_nobody_asks_where_it_stands() -> None:
    class Last(DataLoader):
        """Says where the last of its iterators stands."""

        def state_dict(self) -> dict[str, Any]:
            raise AssertionError

        load_state_dict = state_dict

    loader = Last(Rows(), batch_size=3)
    engine = bilevel(mlp(), train=mlopt.Stream(loader), valid=mlopt.Stream(loader)).engine()
    take(engine, 3)
    assert [stream["own"] for stream in engine.state_dict()["streams"]] == [None, None]


def test_a_place_that_cannot_be_read_back_is_refused_by_name() -> None:
    class Odd(Says):
        def state_dict(self) -> Any:
            return {"place": object()}

    engine = reading(Odd()).engine()
    take(engine, 1)
    with pytest.raises(SettingsError, match=r"Odd.state_dict\(\)\['place'\] is a object"):
        engine.state_dict()


def test_a_loader_that_does_not_take_its_place_is_named() -> None:
    class Refuses(Says):
        def load_state_dict(self, state: Any) -> None:
            raise KeyError("order")

    engine, other = reading(Says()).engine(), reading(Refuses()).engine()
    take(engine, 1)
    take(other, 2)
    before = held(other)
    state = saved(engine.state_dict())
    with pytest.raises(SettingsError, match="Refuses does not take its own state: KeyError"):
        other.load_state_dict(state)
    assert_same(before, held(other))


def test_what_is_read_again_is_said_where_it_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, other = reading(Plain()).engine(), reading(Plain()).engine()
    take(engine, 6)
    state = saved(engine.state_dict())
    other.load_state_dict(state)  # nothing is said
    monkeypatch.setattr("mlopt._graph.known._LONG", 0.0)
    with pytest.warns(CapabilityWarning, match="2 batches of Plain were read again") as said:
        other.load_state_dict(state)
    assert len(said) == 1


class Rows(Dataset):
    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, i: int) -> Any:
        return X[i], Y[i]


@pytest.mark.filterwarnings("ignore:.*set_vital")  # of torchdata 0.11 with newer torch
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("at", [1, 2, 4, 5])
def test_torchdatas_loader(workers: int, at: int) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader")

    def made() -> DataLoader:
        return stateful.StatefulDataLoader(Rows(), batch_size=3, shuffle=True, num_workers=workers)

    engine = reading(made()).engine()
    take(engine, at)
    own = engine.state_dict()["streams"][0]["own"]
    assert (own is None) == (at == 4)  # between two passes
    resumed(made, at)
