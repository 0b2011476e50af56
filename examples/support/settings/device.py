"""The device that a run is made on."""

from __future__ import annotations

import torch

from mlopt import SettingsError


def check_device(name: str) -> None:
    """See that tensors can be made there, before anything else is.

    Raises:
        SettingsError: there is no such device on this machine.
    """
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        said = str(error).strip().split("\n")[0].rstrip(".")
        raise SettingsError(
            f"device = {name!r} cannot be used here ({said}). Give cpu, or one that this machine "
            "has: cuda, cuda:1, ..."
        ) from error
