"""Whole steps on the device "meta", which computes shapes alone: as far from the host as a GPU.

What mixes its tensors with those of the CPU raises there, on a machine without a GPU, too.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

__all__ = ["values_asked_for"]


def values_asked_for(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Answer reads of values by zeros, and list them; any other read of a value raises.

    On the way to a device the host waits as well, unless it is told not to: listed as "to".
    """
    asked: list[str] = []

    def answering(name: str, answer: Any) -> None:
        original = getattr(torch.Tensor, name)

        def read(tensor: Any, *args: Any) -> Any:
            if not tensor.is_meta:
                return original(tensor, *args)
            asked.append(name)
            return answer(tensor)

        monkeypatch.setattr(torch.Tensor, name, read)

    move = torch.Tensor.to

    def to(tensor: Any, *args: Any, **kwargs: Any) -> Any:
        moved = move(tensor, *args, **kwargs)
        if moved.is_meta and not tensor.is_meta and not kwargs.get("non_blocking"):
            asked.append("to")
        return moved

    monkeypatch.setattr(torch.Tensor, "to", to)
    answering("tolist", lambda tensor: [0.0] * len(tensor) if tensor.dim() else 0.0)
    answering("item", lambda tensor: 0.0)
    answering("__bool__", lambda tensor: False)  # before the first step: the check of stacks
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    return asked
