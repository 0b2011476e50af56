"""What a loader leads to is found whatever keeps it."""

from __future__ import annotations

import pathlib

import torch

from mlopt._graph.held import holds


class Slots:
    """One slot is empty, and its name is a property's in a class below."""

    __slots__ = ("generator", "late")


class Lazy(Slots):
    __slots__ = ()

    @property
    def late(self) -> str:  # type: ignore[override]
        return "made when it is asked for"


class Loader:
    def __init__(self) -> None:
        self.inside = Lazy()
        self.inside.generator = torch.Generator()
        self.path = pathlib.Path("data") / "images"

    def __iter__(self):
        return iter([1])


def test_slots_that_are_empty() -> None:
    """Those of paths are, from Python 3.13 on."""
    loader = Loader()
    generators, _ = holds(loader)
    assert any(g is loader.inside.generator for g in generators)
