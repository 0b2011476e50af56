"""Numbers that the first evaluation makes, and each writes, and the next one reads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
import torch
from evaluation.keeping import X, engine_of, fit
from torch import Tensor

from mlopt import CapabilityWarning


class Slot:
    """Where something is kept that is not there at first."""

    def __init__(self) -> None:
        self.held: Any = None


def averaged(before: Any, now: Any) -> Any:
    return now if before is None else 0.5 * before + 0.5 * now


def begun(keep: Callable[[Slot, Tensor], Any]) -> tuple[Callable[..., Tensor], Slot]:
    """An objective that pulls its outputs towards what is kept of those before, if any is."""
    slot = Slot()

    def low(w, r):
        h = w(X)
        return fit(h, r) + (h - keep(slot, h.detach())).square().mean()

    return low, slot


def as_attribute(slot: Slot, h: Tensor) -> Tensor:
    slot.held = averaged(slot.held, h.mean())
    return slot.held


def in_a_dict(slot: Slot, h: Tensor) -> Tensor:
    slot.held = slot.held if slot.held is not None else {}
    slot.held["mean"] = averaged(slot.held.get("mean"), h.mean())
    return slot.held["mean"]


def as_a_number(slot: Slot, h: Tensor) -> float:
    slot.held = averaged(slot.held, h.mean().item())
    return slot.held


def as_an_array(slot: Slot, h: Tensor) -> Tensor:
    slot.held = averaged(slot.held, h.numpy().copy())
    return torch.from_numpy(slot.held)


def in_a_queue(slot: Slot, h: Tensor) -> Tensor:
    slot.held = deque(maxlen=3) if slot.held is None else slot.held
    slot.held.append(h)
    return torch.stack([*slot.held]).mean(0)


def the_one_before(slot: Slot, h: Tensor) -> Tensor:
    before, slot.held = slot.held, h
    return h if before is None else before


BEGUN = [as_attribute, in_a_dict, as_a_number, as_an_array, in_a_queue, the_one_before]


@pytest.mark.parametrize("keep", BEGUN)
def test_what_begins_with_the_first_evaluation_is_named(
    keep: Callable[[Slot, Tensor], Any],
) -> None:
    """At one point it is alike in all evaluations: the mean of equal numbers is that number."""
    low, slot = begun(keep)
    engine = engine_of(low=low)
    with pytest.warns(CapabilityWarning, match=r"^low: each evaluation writes slot\.held"):
        engine.plan()  # which makes the first check alone
    assert not slot.held  # None, or empty


def a_cache(slot: Slot, h: Tensor) -> Tensor:
    slot.held = {"shift": X.mean().item()} if slot.held is None else slot.held
    slot.held["last"] = h.mean().item()
    return slot.held["shift"]


def a_log(slot: Slot, h: Tensor) -> float:
    slot.held = [] if slot.held is None else slot.held
    slot.held.append(h.mean().item())
    return 0.5


def a_copy(slot: Slot, h: Tensor) -> float:
    slot.held = h
    return 0.5


@pytest.mark.parametrize("keep", [a_cache, a_log, a_copy])
def test_what_no_value_depends_on_may_be_kept(keep: Callable[[Slot, Tensor], Any]) -> None:
    low, slot = begun(keep)
    engine_of(low=low).step()  # a warning is an error
    assert slot.held is not None
