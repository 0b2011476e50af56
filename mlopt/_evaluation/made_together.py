"""`made_together`: an evaluation in the middle of which ranks add up, or why they cannot."""

from __future__ import annotations

from collections.abc import Sequence

from .._errors import DataError, GraphError, MloptError
from .._graph.node import Node
from .._tensors import spread
from ..distributed.shared_sums import Together
from ..distributed.sums import Sums
from ..distributed.sync_batch_norm import takes_all_ranks
from .part_by_part import Evaluates
from .shares import Share

__all__ = ["made_at_home", "made_together"]


def made_together(
    sums: Sums, parts: int, evaluator: Evaluates, node: Node, share: Share
) -> Together:
    """The evaluation of a node by all ranks, for the BatchNorm that it may have.

    Args:
        sums: over the ranks.
        parts: in how many each takes its samples.
        evaluator: of the graph; it knows the modules that the node reads.
        node: that is evaluated.
        share: what this rank has of its batch.

    Returns:
        The evaluation.

    Raises:
        DataError: BatchNorm takes the samples of all ranks, and not all have some.
        GraphError: likewise, and each has several parts of them.
        DataError: a variable is sharded, and the ranks do not go through as many parts each.
    """
    if (over := spread()) is not None and not share.alike:
        rows = over.variables.intersection(evaluator.bound(node))  # type: ignore[attr-defined]
        if rows:
            raise DataError(_few(node, [v.name for v in rows], share))
    if share.everywhere and parts == 1:
        return Together(sums)
    refusal = _refusal(sums.ranks.size, parts, node, share)
    if any(takes_all_ranks(evaluator.bindings[s].module) for s in evaluator.bound(node)):
        raise refusal  # on all ranks, before any waits for another
    return Together(sums, refusal)  # a module that is no part of a variable may have some


def _few(node: Node, names: list[str], share: Share) -> str:
    samples = "" if share.rows is None else f": they have {[*share.rows]} samples"
    return (
        f"{node.name}: {' and '.join(sorted(names))} is sharded, so all ranks evaluate it "
        f"together, and they do not have as many parts of this batch each{samples}. Give batches "
        "that have a sample for each part of each rank (drop_last=True)."
    )


def made_at_home(
    sums: Sums, home: Sequence[int], evaluator: Evaluates, node: Node
) -> Together | None:
    """The evaluation of a node on some of the ranks, likewise.

    Args:
        sums: over the ranks.
        home: on which it is evaluated.
        evaluator: of the graph.
        node: that is evaluated.

    Returns:
        The evaluation; None where one rank makes it, which has all samples.

    Raises:
        GraphError: BatchNorm takes the samples of all ranks, and some of them make it.
    """
    if len(home) == 1:
        return None
    refusal = GraphError(
        f"{node.name}: its BatchNorm takes the samples of all ranks (sync_batch_norm), and it "
        f"lives on some of them, {' and '.join(map(str, home))}. Let it live on one, or on all, or "
        "leave out sync_batch_norm."
    )
    if any(takes_all_ranks(evaluator.bindings[s].module) for s in evaluator.bound(node)):
        raise refusal
    return Together(sums, refusal)


def _refusal(ranks: int, parts: int, node: Node, share: Share) -> MloptError:
    where = f"{node.name}: its BatchNorm takes the samples of all ranks (sync_batch_norm), and "
    if parts > 1:
        return GraphError(
            f"{where}Engine(parts={parts}) takes those of a rank in several parts, of which ranks "
            "may have more or fewer. Take parts=1, with smaller batches or more ranks, or leave "
            "out sync_batch_norm."
        )
    return DataError(
        f"{where}some of the {ranks} ranks have none of this batch"
        f"{'' if share.rows is None else f': they have {[*share.rows]}'}. Give batches that have "
        "a sample for each rank (drop_last=True), or leave out sync_batch_norm."
    )
