"""The rules of P-DARTS: which operations leave after a stage, and what the last stage decides."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mlopt._errors import SettingsError
from mlopt.nas.architecture import count_edges
from mlopt.nas.genotype import Genotype

__all__ = ["drop", "progressive_genotype"]

_SKIP = "skip_connect"

Operations = Sequence[Sequence[str]]


def drop(probabilities: Tensor, operations: Operations, count: int) -> tuple[tuple[str, ...], ...]:
    """Take the least probable operations from every edge, as P-DARTS does between two stages.

    'none' competes like the others. Of equal probabilities the earlier operation leaves first.

    Args:
        probabilities: (edges, kept), the softmax over the operations that an edge still has.
        operations: their names, one tuple for each edge, in the order of the columns.
        count: how many leave each edge.

    Returns:
        The names that stay, in the same order.

    Raises:
        SettingsError: if shapes and names do not fit, or no operation would stay.

    Reference: Chen, Xie, Wu, Tian, "Progressive Differentiable Architecture Search", ICCV 2019,
        section 3.2.
    """
    rows = _rows("drop", probabilities, operations)
    kept = probabilities.shape[1]
    if not 0 <= count < kept:
        raise SettingsError(f"drop: count must be 0 to {kept - 1} of {kept}, got {count}.")
    stay: list[tuple[str, ...]] = []
    for row, names in zip(rows, operations, strict=True):
        leave = sorted(range(kept), key=row.__getitem__)[:count]
        stay.append(tuple(name for column, name in enumerate(names) if column not in leave))
    return tuple(stay)


def progressive_genotype(
    normal: Tensor,
    reduce: Tensor,
    normal_operations: Operations,
    reduce_operations: Operations,
    nodes: int,
    most_skips: int | None = 2,
) -> Genotype:
    """Return the genotype of the probabilities of P-DARTS' last stage.

        strength(e) = max_{o != none} p[e, o],    operation(e) = argmax_{o != none} p[e, o]

    Each node keeps its two strongest edges, listed by source. Of equals the later one wins, edge
    or operation. While the normal cell has more than `most_skips` skip connections, the one of
    smallest probability is taken from its edge, and the cell is chosen again. The reduction cell
    is not restricted.

    Args:
        normal: (edges, kept), the softmax over the operations that an edge of a normal cell still
            has.
        reduce: the same of the reduction cells.
        normal_operations: names of the normal cells' operations, one tuple for each edge.
        reduce_operations: the same of the reduction cells.
        nodes: intermediate nodes of a cell.
        most_skips: greatest number of skip connections in the normal cell; None: any number.

    Returns:
        The genotype; both cells output all nodes.

    Raises:
        SettingsError: if shapes and names do not fit, an edge has 'none' alone, or too many edges
            have nothing but a skip connection.

    Reference: Chen, Xie, Wu, Tian, "Progressive Differentiable Architecture Search", ICCV 2019,
        section 3.3.
    """
    if most_skips is not None and most_skips < 0:
        raise SettingsError(
            f"progressive_genotype: most_skips must be at least 0 or None, got {most_skips}."
        )
    concat = tuple(range(2, nodes + 2))
    return Genotype(
        normal=_cell(_tables("normal", normal, normal_operations, nodes), nodes, most_skips),
        normal_concat=concat,
        reduce=_cell(_tables("reduce", reduce, reduce_operations, nodes), nodes, None),
        reduce_concat=concat,
    )


def _rows(where: str, probabilities: Tensor, operations: Operations) -> list[list[float]]:
    shape = tuple(probabilities.shape)
    if len(shape) != 2 or [len(names) for names in operations] != [shape[1]] * shape[0]:
        raise SettingsError(
            f"{where}: probabilities must be (edges, kept) with the names of kept operations for "
            f"each edge, got shape {shape} and {[len(names) for names in operations]} names."
        )
    return probabilities.tolist()


def _tables(
    kind: str, probabilities: Tensor, operations: Operations, nodes: int
) -> list[dict[str, float]]:
    """For each edge, its operations but 'none', with their probabilities."""
    where = f"progressive_genotype: {kind}"
    rows = _rows(where, probabilities, operations)
    if len(rows) != count_edges(nodes):
        raise SettingsError(
            f"{where}: {nodes} nodes have {count_edges(nodes)} edges, got {len(rows)}."
        )
    tables = [
        {name: p for name, p in zip(names, row, strict=True) if name != "none"}
        for names, row in zip(operations, rows, strict=True)
    ]
    if not all(tables):
        raise SettingsError(f"{where}: edge {tables.index({})} has no operation but 'none'.")
    return tables


def _cell(
    tables: list[dict[str, float]], nodes: int, most_skips: int | None
) -> tuple[tuple[str, int], ...]:
    """Choose edges and operations again, with one skip connection fewer, until few are left."""
    while True:
        best = [max(reversed(table), key=table.__getitem__) for table in tables]  # last of equals
        kept = _strongest_edges([max(table.values()) for table in tables], nodes)
        skips = [edge for edge, _ in kept if best[edge] == _SKIP]
        if most_skips is None or len(skips) <= most_skips:
            return tuple((best[edge], source) for edge, source in kept)
        # An edge that loses its skip connection needs another operation.
        losers = [edge for edge in skips if len(tables[edge]) > 1]
        if not losers:
            raise SettingsError(
                f"progressive_genotype: normal edges {skips} have no operation but {_SKIP!r}, "
                f"and most_skips is {most_skips}. Keep more operations in the last stage, or "
                "allow more skip connections."
            )
        del tables[min(losers, key=lambda edge: tables[edge][_SKIP])][_SKIP]


def _strongest_edges(strength: list[float], nodes: int) -> list[tuple[int, int]]:
    """The two strongest (edge, source) of each node, by source; of equals the later."""
    kept: list[tuple[int, int]] = []
    for node in range(nodes):
        first = count_edges(node)
        sources = sorted(range(node + 2), key=lambda source: (strength[first + source], source))
        kept += [(first + source, source) for source in sorted(sources[-2:])]
    return kept
