"""What a loader leads to is found whatever keeps it."""

from __future__ import annotations

import functools
import pathlib
import random
from typing import Any

import numpy as np
import pytest
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


class Transform(torch.nn.Module):
    def __init__(self, generator: Any) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, x: Any) -> Any:
        return x


def kept(generator: Any) -> dict[str, Any]:
    """Where a data set may keep one."""

    class Classwide:
        shared = generator

    def with_default(x: Any, of: Any = generator) -> Any:
        return x, of

    return {
        "partial": functools.partial(print, end=generator),
        "module": Transform(generator),
        "modules": torch.nn.Sequential(torch.nn.ReLU(), Transform(generator)),
        "class": Classwide(),
        "default": with_default,
        "closure": lambda x: (x, generator),
        "method": Transform(generator).forward,
    }


@pytest.mark.parametrize("place", kept(None))
@pytest.mark.parametrize("kind", [torch.Generator, random.Random, np.random.RandomState])
def test_generators_in_whatever_keeps_them(kind: Any, place: str) -> None:
    generator = kind()
    found, _ = holds([kept(generator)[place]])
    assert found == [generator]


@pytest.mark.parametrize("generator", [random.Random(0), np.random.RandomState(0)])
def test_methods_written_in_c_have_one(generator: Any) -> None:
    method = generator.random if isinstance(generator, random.Random) else generator.rand
    assert holds([method])[0] == [generator]
