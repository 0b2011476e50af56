"""Where a loader says by its own `state_dict` that it stands in its pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from .._containers.loaders import describe
from .._errors import SettingsError, exhausted
from .portable import portable

__all__ = ["own_place", "says_place", "take_place"]

_WORDS = (type(None), bool, int, float, complex, str, bytes, Tensor)


def own_place(loader: Any, iterator: Iterator[Any], ahead: list[Any]) -> dict[str, Any] | None:
    """A loader's place as it is saved, in the protocol of torchdata's `StatefulDataLoader`.

    Args:
        loader: that is in the middle of a pass.
        iterator: of the pass; if the loader keeps another one, the place is not that of this pass.
        ahead: batches behind which the loader stands, but not who reads it; they are saved, too.

    Returns:
        The place; None if the loader has none, or of it alone the pass cannot go on.

    Raises:
        SettingsError: it is made of what cannot be read back.
    """
    if not says_place(loader) or not all(map(_plain, ahead)):
        return None
    if getattr(loader, "_iterator", iterator) is not iterator:
        return None
    name = f"{describe(loader)}.state_dict()"
    return {"state": portable(loader.state_dict(), name), "ahead": portable(ahead, "a batch")}


def take_place(loader: Any, saved: Mapping[str, Any]) -> Iterator[Any]:
    """Let a loader go to such a place.

    Returns:
        The rest of its pass.

    Raises:
        SettingsError: it does not take its own state.
    """
    try:
        loader.load_state_dict(portable(saved["state"], "a place"))
        return iter(loader)
    except Exception as error:
        if exhausted(error):
            raise
        raise SettingsError(
            f"load_state_dict: {describe(loader)} does not take its own state: "
            f"{type(error).__name__}: {error}"
        ) from error


def says_place(loader: Any) -> bool:
    """Whether a loader has a state of its own; that of a module is of its weights."""
    pair = (getattr(loader, name, None) for name in ("state_dict", "load_state_dict"))
    return not isinstance(loader, nn.Module) and all(map(callable, pair))


def _plain(batch: Any) -> bool:
    """Whether a batch is read back as what it is."""
    if type(batch) in (list, tuple):
        return all(map(_plain, batch))
    if type(batch) is dict:
        return all(map(_plain, [*batch, *batch.values()]))
    return type(batch) in _WORDS
