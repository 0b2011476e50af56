"""The law of memory: a step leaves nothing behind, and an engine that is dropped is freed at once.

The collector is off: what it would have to find is a leak already, and circles that go through
autograd it never finds. Objects are counted, not tensors alone, since such a circle has Python
objects in it whatever else it holds.
"""

from __future__ import annotations

import gc
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from engine.memory_graphs import ENGINES
from small import is_nested_graph, small_random_graphs

import mlopt

ALL = dict(ENGINES)


@pytest.fixture(autouse=True)
def _collector_off() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()
