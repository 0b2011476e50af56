"""The search space of P-DARTS: DARTS' in stages, deeper and with fewer operations each time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from mlopt._arguments import check_fields, checked, from_one, from_zero, within
from mlopt._errors import SettingsError
from mlopt.nas.architecture import (
    Architecture,
    ArchitectureWeights,
    CellOperations,
    count_edges,
)
from mlopt.nas.genotype import Genotype
from mlopt.nas.mixed_edges import MixedEdges, Mixture
from mlopt.nas.operations import PRIMITIVES
from mlopt.nas.progressive import drop, progressive_genotype
from mlopt.nas.space import SearchSpace
from mlopt.nas.supernet import Supernet, check_epoch

__all__ = ["PDARTS", "KeptArchitecture"]

_SKIP = PRIMITIVES.index("skip_connect")


@dataclass(frozen=True)
class PDARTS(SearchSpace):
    """DARTS' space in stages: from one to the next the supernet grows and edges lose operations.

        kept(e) <- kept(e) without the drop[stage] operations of smallest weight on edge e

    Every stage has new weights and a new architecture. Elements of the skip connections of stride
    1 are dropped in training, less and less during a stage, so that the search does not lean on
    them too early. At the end the normal cell keeps at most `most_skips` of them.

    Args:
        channels: channels of the first stage's first cells.
        layers: cells of the first stage's supernet.
        nodes: intermediate nodes of a cell.
        form: `cifar` keeps the size of small images in the stem; `imagenet` divides it by eight.
        add_layers: cells that each stage has more than `layers`.
        add_width: channels that each stage has more than `channels`.
        drop: how many operations leave each edge after each stage; one is left at the end.
        skip_dropout: rate of each stage at which elements of skip connections are dropped.
        most_skips: greatest number of skip connections in the normal cell; None: any number.
        stage: which stage this is, from 0.
        kept: operations that each edge still has; all eight by default. `following` sets it.

    Raises:
        SettingsError: if a number is too small, the stages' tuples have different lengths or the
            operations are not as many as this stage has, or there is no such form.

    Reference: Chen, Xie, Wu, Tian, "Progressive Differentiable Architecture Search: Bridging the
        Depth Gap Between Search and Evaluation", ICCV 2019.
    """

    layers: int = 5
    add_layers: tuple[int, ...] = (0, 6, 12)
    add_width: tuple[int, ...] = (0, 0, 0)
    drop: tuple[int, ...] = (3, 2, 2)
    skip_dropout: tuple[float, ...] = (0.1, 0.4, 0.7)
    most_skips: int | None = 2
    stage: int = 0
    kept: CellOperations | None = None

    def __post_init__(self) -> None:
        if isinstance(self.kept, (list, tuple)):
            kept = _as_operations(self.kept)
            object.__setattr__(self, "kept", kept)
        super().__post_init__()
        check_fields(
            self,
            SettingsError,
            add_layers=from_zero,
            add_width=from_zero,
            drop=from_zero,
            skip_dropout=within("[0, 1)"),
            most_skips=from_zero,
            stage=from_zero,
        )
        count = len(self.add_layers)
        if not count or {len(self.add_width), len(self.drop), len(self.skip_dropout)} != {count}:
            raise SettingsError(
                "PDARTS: add_layers, add_width, drop and skip_dropout have one number for each "
                f"stage, got {self.add_layers}, {self.add_width}, {self.drop} and "
                f"{self.skip_dropout}."
            )
        if sum(self.drop) != len(PRIMITIVES) - 1:
            raise SettingsError(
                f"PDARTS: drop must leave one of the {len(PRIMITIVES)} operations on each edge, so "
                f"add up to {len(PRIMITIVES) - 1}, got {self.drop}."
            )
        if self.stage >= count:
            raise SettingsError(f"PDARTS: stage must be 0 to {count - 1}, got {self.stage}.")
        self._check_kept()

    def _check_kept(self) -> None:
        edges, each = count_edges(self.nodes), len(PRIMITIVES) - sum(self.drop[: self.stage])
        for kind, kept in zip(CellOperations._fields, self.operations, strict=True):
            ordered = [
                tuple(names) == tuple(name for name in PRIMITIVES if name in names)
                and len(names) == each
                for names in kept
            ]
            if len(kept) != edges or not all(ordered):
                raise SettingsError(
                    f"PDARTS: in stage {self.stage} each of the {edges} edges has {each} distinct "
                    f"operations in the order of PRIMITIVES, got kept.{kind}={kept}. "
                    "`following` of the stage before makes them."
                )

    @property
    def operations(self) -> CellOperations:
        """The operations that each edge has in this stage."""
        return CellOperations.full(self.nodes) if self.kept is None else self.kept

    @property
    def stages(self) -> tuple[int, ...]:
        """Cells of the supernet in each stage."""
        return tuple(self.layers + more for more in self.add_layers)

    @checked(SettingsError)
    def architecture(self, generator: torch.Generator | None = None) -> KeptArchitecture:
        """Return new architecture parameters, (edges, kept operations) for each kind of cell."""
        return KeptArchitecture(self.nodes, self.operations, generator=generator)

    def supernet(self, classes: int, in_channels: int = 3) -> Supernet:
        """Return this stage's network; `begin_epoch` sets its dropout, the buffer `scheduled`."""
        dropped = self.skip_dropout[self.stage] > 0
        return Supernet(
            self.channels + self.add_width[self.stage],
            self.stages[self.stage],
            classes,
            self.nodes,
            in_channels,
            form=self.form,
            operations=self.operations,
            edges=_DroppedSkips if dropped else MixedEdges,
            schedule=self.skip_rate if dropped else None,
        )

    @checked(SettingsError, epoch=from_zero, epochs=from_one, warmup=from_zero)
    def skip_rate(self, epoch: int, epochs: int, warmup: int = 0) -> float:
        """Return the rate of this stage's skip dropout in an epoch.

            r * (epochs - epoch - 1) / epochs    while the architecture rests, epoch < warmup
            r * exp(-0.2 * (epoch - warmup))     from then on

        Args:
            epoch: which epoch, from 0.
            epochs: how many this stage has.
            warmup: first epochs that do not update the architecture.

        Returns:
            The part of the elements that is set to zero.

        Raises:
            SettingsError: there is no such epoch.
        """
        check_epoch("PDARTS.skip_rate", epoch, epochs)
        rate = self.skip_dropout[self.stage]
        if epoch < warmup:
            return rate * (epochs - epoch - 1) / epochs
        return rate * math.exp(-0.2 * (epoch - warmup))

    def following(self, architecture: Architecture) -> PDARTS | None:
        """Return the next stage, with the operations that this one keeps; None after the last.

        Args:
            architecture: of this stage, as the search left it.

        Raises:
            SettingsError: if it is another stage's, or another space's.
        """
        self._check_stage(architecture)
        if self.stage == len(self.stages) - 1:
            return None
        tables = (architecture.normal, architecture.reduce)
        kept = [
            drop(table.detach().softmax(dim=-1), names, self.drop[self.stage])
            for table, names in zip(tables, self.operations, strict=True)
        ]
        return dataclasses.replace(self, stage=self.stage + 1, kept=CellOperations(*kept))

    def derive(self, architecture: Architecture) -> Genotype:
        """Return the two strongest edges of each node, with few skip connections.

        Args:
            architecture: of the last stage.

        Raises:
            SettingsError: if it is another stage's, or another space's.
        """
        self._check_stage(architecture)
        if self.stage < len(self.stages) - 1:
            raise SettingsError(
                f"PDARTS.derive: this is stage {self.stage} of {len(self.stages)}; search the "
                "others first: `following` gives the next."
            )
        return progressive_genotype(
            architecture.normal.detach().softmax(dim=-1),
            architecture.reduce.detach().softmax(dim=-1),
            self.operations.normal,
            self.operations.reduce,
            self.nodes,
            self.most_skips,
        )

    def _check_stage(self, architecture: Architecture) -> None:
        self._check_architecture(architecture, KeptArchitecture)
        if cast(KeptArchitecture, architecture).kept != self.operations:
            raise SettingsError(
                f"PDARTS: this architecture has other operations than stage {self.stage} of this "
                "search. Give what this space's architecture() returned."
            )


def _as_operations(kept: Sequence[Any]) -> CellOperations:
    """What was read from a file, as tuples again."""
    try:
        normal, reduce = (tuple(tuple(names) for names in kind) for kind in kept)
    except (TypeError, ValueError):
        raise SettingsError(
            "PDARTS: kept must name the operations of each edge, for normal and for reduction "
            f"cells, got {kept!r:.80}."
        ) from None
    return CellOperations(normal, reduce)


class KeptArchitecture(Architecture):
    """Architecture parameters of edges that have different operations.

        weights[e, o] = exp(alpha[e, o]) / sum_{k in kept(e)} exp(alpha[e, k]),    0 if o not kept

    Args:
        nodes: intermediate nodes of a cell.
        kept: names of each edge's operations, in the order of the columns of `normal` and `reduce`.
        generator: source of the initial values; the global one by default.

    Attributes:
        normal: parameter (edges, kept) of the normal cells.
        reduce: parameter (edges, kept) of the reduction cells.
    """

    def __init__(
        self, nodes: int, kept: CellOperations, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(nodes, generator=generator)
        self.kept = kept
        for kind, names in zip(CellOperations._fields, kept, strict=True):
            columns = torch.tensor([[PRIMITIVES.index(name) for name in edge] for edge in names])
            alpha = 1e-3 * torch.randn(columns.shape, generator=generator)
            setattr(self, kind, nn.Parameter(alpha))
            self.register_buffer(f"{kind}_columns", columns, persistent=False)

    def forward(self) -> ArchitectureWeights:
        """Return the mixture weights (edges, 8), zero where an operation was dropped."""

        def spread(alpha: Tensor, columns: Tensor) -> Tensor:
            zeros = alpha.new_zeros(len(alpha), len(PRIMITIVES))
            return zeros.scatter(1, columns, alpha.softmax(dim=-1))

        return ArchitectureWeights(
            spread(self.normal, cast(Tensor, self.normal_columns)),
            spread(self.reduce, cast(Tensor, self.reduce_columns)),
        )


class _DroppedSkips(MixedEdges):
    """Mixed edges whose skip connections of stride 1 lose elements, at rate `Mixture.scheduled`."""

    def __init__(
        self,
        channels: int,
        sources: int,
        targets: int,
        stride: int,
        operations: Sequence[Sequence[str]] | None = None,
    ) -> None:
        super().__init__(channels, sources, targets, stride, operations)
        self.others: Tensor
        others = torch.tensor([float(name != "skip_connect") for name in PRIMITIVES])
        self.register_buffer("others", others, persistent=False)

    def forward(self, x: Tensor, mixture: Mixture) -> list[Tensor]:
        """Return the sums of the mixed edges, each skip connection under a mask of its own."""
        skips = self.edges_with["skip_connect"]
        if self.stride == 2 or not self.training or not skips:
            return super().forward(x, mixture)
        weights = mixture.weights
        nodes = super().forward(x, mixture.reweighted(weights * self.others))
        keep = 1 - cast(Tensor, mixture.scheduled)
        states = x.unflatten(1, (self.sources, self.channels)).unbind(1)
        for edge in skips:
            source, target = divmod(edge, self.targets)
            state = states[source]
            mask = torch.rand_like(state, dtype=keep.dtype) < keep
            nodes[target] = nodes[target] + state * mask * (weights[edge, _SKIP] / keep)
        return nodes
