"""The resume law: n steps are k steps, a save, a load into another engine, and n - k steps."""

from __future__ import annotations

import io
import random
from typing import Any

import numpy as np
import pytest
import torch
from engine.chaos import ALL, held, take
from grids import thinned
from small import assert_same

import mlopt

STEPS, AT = 9, 4


def saved(state: dict[str, Any]) -> dict[str, Any]:
    """What comes back from a file."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def everyones() -> tuple[Any, ...]:
    numpy = np.random.get_state(legacy=False)["state"]
    return random.getstate(), numpy["key"].tolist(), numpy["pos"], torch.get_rng_state().tolist()


@pytest.mark.parametrize("name", thinned(3, [n for n in ALL if "foreign" not in n]))
def test_a_resumed_engine_goes_on_to_the_bit(name: str) -> None:
    engine = ALL[name]()
    take(engine, AT)
    state = saved(engine.state_dict())
    metrics = [engine.step() for _ in range(AT, STEPS)]
    end, numbers = held(engine), everyones()

    other = ALL[name]()
    other.load_state_dict(state)
    again = [other.step() for _ in range(AT, STEPS)]
    assert_same(end, held(other))
    assert_same(metrics, again)
    assert numbers == everyones()
