"""What BigGAN's two networks have in common: their settings' checks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TypeVar

from mlopt._errors import SettingsError

_Row = TypeVar("_Row")


def row(table: Mapping[int, _Row], image_size: int, where: str) -> _Row:
    """What a family's table says of a size, or `SettingsError` with the sizes there are."""
    if image_size not in table:
        sizes = ", ".join(str(size) for size in table)
        raise SettingsError(
            f"{where}: image_size={image_size} is not supported; resize images to one of {sizes}."
        )
    return table[image_size]


def check_attention(attention: Collection[int], sides: Sequence[int], where: str) -> None:
    """Raise `SettingsError` for attention at a side that no block's output has."""
    for side in attention:
        if side not in sides:
            have = ", ".join(str(s) for s in dict.fromkeys(sides))
            raise SettingsError(
                f"{where}: attention={tuple(attention)} asks for feature maps of side {side}; "
                f"this network's blocks give sides {have}."
            )
