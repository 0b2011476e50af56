"""What stands in the engine's list for several problems or signals at once."""

from __future__ import annotations

from collections.abc import Sequence

from .._errors import GraphError
from .node import Node
from .options import listed

__all__ = ["Group", "flatten"]


class Group:
    """Nodes of one level, declared together: none of them is below another.

    Args:
        members: the nodes.
        least: how many there must be.

    Raises:
        GraphError: they are not that many problems or signals, or one is there twice.
    """

    def __init__(self, members: Sequence[Node], least: int = 2) -> None:
        what = type(self).__name__
        option = "players" if what == "Game" else "members"
        example = f"{what}([first, second])"
        self.members: tuple[Node, ...] = listed(what, option, members, example)
        for member in self.members:
            if not isinstance(member, Node):
                raise GraphError(
                    f"{what}: its list holds a {type(member).__name__}; it takes problems or "
                    "signals. Is a function not decorated?"
                )
            if self.members.count(member) > 1:
                raise GraphError(f"{what}: {member.name} is listed twice; list each one once.")
        if len(self.members) < least:
            raise GraphError(f"{what}: it takes a list of at least {least}; list one alone as is.")

    def _check_options(self) -> None:
        """Raise a `GraphError` if members have options that do not go together."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}([{', '.join(m.name for m in self.members)}])"


def flatten(entries: Sequence[Node | Group]) -> tuple[tuple[Node, ...], tuple[Group, ...]]:
    """The nodes of a list, in its order, and the groups in it."""
    entries = listed("Engine", "problems", entries, "Engine([lower, upper])")
    groups = tuple(e for e in entries if isinstance(e, Group))
    nodes: list[Node] = []
    for entry in entries:
        nodes.extend(entry.members if isinstance(entry, Group) else (entry,))
    return tuple(nodes), groups
