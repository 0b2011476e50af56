"""The genotype: what a search finds, the operations and edges that are kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlopt._arguments import checked, from_one
from mlopt._errors import SettingsError
from mlopt.nas.genotype_text import FIELDS, read_genotype_text
from mlopt.nas.operations import OPERATIONS, PRIMITIVES

__all__ = ["Genotype"]

Pairs = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Genotype:
    """Two cells in which every node adds two operations applied to two states.

        node_j = o_a(state_a) + o_b(state_b),    cell output = the nodes of `concat`, side by side

    States 0 and 1 are the outputs of the cell before the previous one and of the previous cell;
    node i (from 0) is state i + 2. The pairs of one node follow each other.

    Args:
        normal: pairs (operation, source state) of the normal cell, two for each node; a list of
            the nodes' two pairs is taken, too.
        normal_concat: states that make the normal cell's output, as a list or range.
        reduce: as `normal`, for the reduction cell.
        reduce_concat: as `normal_concat`, for the reduction cell.

    Raises:
        SettingsError: if an operation is unknown, a source is not an earlier state, or a field has
            a wrong type.
    """

    normal: Pairs
    normal_concat: tuple[int, ...]
    reduce: Pairs
    reduce_concat: tuple[int, ...]

    def __post_init__(self) -> None:
        for kind in ("normal", "reduce"):
            pairs = _checked_pairs(kind, getattr(self, kind))
            concat = _checked_concat(
                f"{kind}_concat", getattr(self, f"{kind}_concat"), len(pairs) // 2
            )
            object.__setattr__(self, kind, pairs)  # lists become tuples
            object.__setattr__(self, f"{kind}_concat", concat)

    def to_json(self) -> str:
        """Return the genotype as a JSON object with this class's four fields."""
        return json.dumps({name: getattr(self, name) for name in FIELDS})

    @classmethod
    @checked(SettingsError)
    def from_json(cls, text: str) -> Genotype:
        """Read what `to_json` wrote.

        Args:
            text: a JSON object.

        Returns:
            The genotype, equal to the one that was written.

        Raises:
            SettingsError: if the text is not JSON, lacks a field, has an unknown one, or describes
                no valid genotype.
        """
        try:
            fields: Any = json.loads(text)
        except (TypeError, ValueError) as error:
            raise SettingsError(f"Genotype.from_json: this is not JSON: {error}.") from error
        if not isinstance(fields, dict) or set(fields) != set(FIELDS):
            given = sorted(fields) if isinstance(fields, dict) else type(fields).__name__
            raise SettingsError(
                f"Genotype.from_json: expected an object with the fields {list(FIELDS)}, "
                f"got {given}."
            )
        return cls(**fields)

    @classmethod
    @checked(SettingsError)
    def from_text(cls, text: str) -> Genotype:
        """Read a genotype as the repositories of DARTS, PC-DARTS and P-DARTS print it.

            Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=range(2, 6), ...)

        `repr` of a genotype is such a text, too, for their `genotypes.py`. Nothing of it is run.

        Args:
            text: that line, a log of their search, whose last one counts, or a file of Python with
                one genotype.

        Returns:
            The genotype.

        Raises:
            SettingsError: if there is none in the text, there are several of different names, or
                it is no valid one.
        """
        try:
            fields = read_genotype_text(text)
        except SettingsError as error:
            raise SettingsError(f"Genotype.from_text: {error}") from error
        return cls(**fields)

    @checked(SettingsError, nodes=from_one)
    def check(self, nodes: int = 4, operations: Sequence[str] = PRIMITIVES) -> None:
        """Refuse a genotype of another search space.

        Args:
            nodes: intermediate nodes of the space's cells.
            operations: what an edge may be; 'none' is never chosen. By default those of DARTS,
                P-DARTS, PC-DARTS and DARTS-.

        Raises:
            SettingsError: if a cell has another number of nodes or an operation that is not one of
                the space's; the first such operation is named.
        """
        for kind in ("normal", "reduce"):
            where = f"Genotype.check: this is of another search space: its {kind} cell has"
            pairs: Pairs = getattr(self, kind)
            for position, (operation, source) in enumerate(pairs):
                if operation not in operations:
                    raise SettingsError(
                        f"{where} {operation!r} at node {position // 2 + 2}, on state {source}. "
                        f"The space's operations are: {', '.join(operations)}."
                    )
            if len(pairs) != 2 * nodes:
                raise SettingsError(
                    f"{where} {len(pairs) // 2} nodes, the space's have nodes={nodes}."
                )

    def text(self) -> str:
        """Return one line for each node; `sep_conv_3x3(0)` is that operation on state 0."""
        lines: list[str] = []
        for kind, pairs, concat in (
            ("normal", self.normal, self.normal_concat),
            ("reduce", self.reduce, self.reduce_concat),
        ):
            lines.append(f"{kind} cell, output = {', '.join(map(str, concat))}")
            for node, (a, b) in enumerate(zip(pairs[::2], pairs[1::2], strict=True), start=2):
                lines.append(f"  {node} = {a[0]}({a[1]}) + {b[0]}({b[1]})")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.text()


def _is_index(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_node(value: object) -> bool:
    """Whether it is a node's two pairs in a list of their own."""
    return (
        isinstance(value, (list, tuple))
        and len(value) == 2
        and all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in value)
    )


def _checked_pairs(name: str, pairs: Any) -> Pairs:
    if isinstance(pairs, (list, tuple)) and all(_is_node(node) for node in pairs):
        pairs = [pair for node in pairs for pair in node]
    if not isinstance(pairs, (list, tuple)) or not pairs or len(pairs) % 2:
        raise SettingsError(
            f"Genotype: {name} must list two (operation, source) pairs for each node, "
            f"got {pairs!r}."
        )
    checked: list[tuple[str, int]] = []
    for position, pair in enumerate(pairs):
        where = f"Genotype: {name}[{position}]"
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise SettingsError(f"{where} must be a pair (operation, source), got {pair!r}.")
        operation, source = pair
        if not isinstance(operation, str) or operation not in OPERATIONS:
            raise SettingsError(
                f"{where} names no operation: {operation!r}. Choose from: {', '.join(OPERATIONS)}."
            )
        node = position // 2 + 2
        if not _is_index(source) or not 0 <= source < node:
            raise SettingsError(
                f"{where} feeds node {node}: its source must be 0 to {node - 1}, got {source!r}."
            )
        checked.append((operation, source))
    return tuple(checked)


def _checked_concat(name: str, concat: Any, nodes: int) -> tuple[int, ...]:
    if (
        not isinstance(concat, (list, tuple, range))
        or not concat
        or not all(_is_index(state) and 2 <= state < nodes + 2 for state in concat)
        or len(set(concat)) != len(concat)
    ):
        raise SettingsError(
            f"Genotype: {name} must list distinct nodes from 2 to {nodes + 1}, got {concat!r}."
        )
    return tuple(concat)
