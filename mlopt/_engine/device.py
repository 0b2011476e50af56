"""`usable`: the device that batches are moved to, tried before anything is built on it."""

from __future__ import annotations

from typing import Any

import torch

from .._errors import GraphError

__all__ = ["usable"]


def usable(device: Any, where: str = "Engine: ") -> torch.device | None:
    """A device on which this process can make tensors.

    Args:
        device: one, its name, or None.
        where: whose argument it is, for the error.

    Returns:
        The device, or None.

    Raises:
        GraphError: it is no device, or is not there.
    """
    if device is None:
        return None
    if not isinstance(device, str | torch.device):
        raise GraphError(
            f"{where}device={device!r} must be a torch.device or its name, such as 'cuda:0'."
        )
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except Exception as error:  # torch raises many kinds, by device and build
        reason = str(error).splitlines()[0]
        raise GraphError(f"{where}device={str(device)!r} cannot be used: {reason}") from error
    return found
