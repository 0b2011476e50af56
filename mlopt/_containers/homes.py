"""`home`: the module in which a class was made."""

from __future__ import annotations

__all__ = ["home"]


def home(kind: type) -> str:
    """The name of a class's module.

    Args:
        kind: any class. Some written in C (methods of NumPy's generators) have a descriptor for
            their instances in that place.

    Returns:
        The name; that of Python's own where the class does not say.
    """
    return kind.__module__ if isinstance(kind.__module__, str) else "builtins"
