"""Random lists of problems and signals over batches: means over samples, rows, sums and counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from cases import warmed
from small import F64
from sweep.random_graphs import _Drawing, features
from torch import Tensor

import mlopt

#: Samples of the batches: two parts of them are uneven.
SIZES = (3, 3)

#: Of differences, which enlarge rounding by its inverse, at each of the levels that are nested.
RADIUS = 0.3


def draw_graph_with_data(
    seed: int, device: torch.device, own: Callable[[Tensor], Tensor] = lambda rows: rows
) -> list[Any]:
    """A list of problems and signals whose functions are those of samples.

    Args:
        seed: of the graph.
        device: of its tensors.
        own: the rows of a batch that are read.

    Returns:
        The nodes.
    """
    nodes = _WithData(seed, device, own).nodes
    for group in (
        g for n in nodes if isinstance(n, mlopt.Problem) for g in n.optimizer.param_groups
    ):
        group["lr"] *= 1e-3  # no step drives it away
    return nodes


class _WithData(_Drawing):
    """What is drawn reads batches; nothing in it draws random numbers."""

    levels = (2, 3)

    def __init__(self, seed: int, device: torch.device, own: Callable[[Tensor], Tensor]) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.loaders = [
            mlopt.Stream([own(torch.randn(n, 3, generator=generator, dtype=F64)) for n in SIZES])
            for _ in range(2)
        ]
        super().__init__(seed, device)

    def _method(self) -> Any:
        lr = self.rng.choice([0.1, 0.5])
        kinds = [
            lambda: mlopt.OneStep(lr=lr),
            lambda: mlopt.OneStep(product=mlopt.Central(RADIUS)),
            lambda: mlopt.OneStep(product=mlopt.OneSided(RADIUS)),
            lambda: mlopt.Frozen(),
            lambda: mlopt.Unrolled(2),
            lambda: mlopt.Unrolled(2, recompute=True),
            lambda: mlopt.StopGradient(mlopt.OneStep(lr=lr)),
        ]
        return self.rng.choices(kinds, [8, 4, 2, 2, 1, 1, 2])[0]()

    def _problem(self, level: int, over: list[Any]) -> None:
        parameters = [p for v in over for p in v.parameters()]
        combine = self.rng.choice(["mean", "mean", "sum"])
        lr, momentum = 0.1 if combine == "mean" else 0.02, self.rng.choice([0.0, 0.9])
        data = self.rng.choice([*self.loaders, *self.loaders, None])
        given = self._reads(level, over)
        self.nodes.append(
            mlopt.problem(
                over=over if len(over) > 1 else over[0],
                given=given,
                data=data,
                optimizer=warmed(torch.optim.SGD(parameters, lr=lr, momentum=momentum)),
                hypergrad=self._method(),
                combine=combine,
                name=f"p{len(self.nodes)}",
            )(self._over_samples(Samples(given, data is not None), combine))
        )

    def _over_samples(self, samples: Samples, combine: str) -> Any:
        """An objective that is a mean or a sum over samples, with the mean of a metric."""
        mix = self._mixer()

        def objective(own, *given):
            losses, largest = [], []
            for held, x in samples(given):
                z, s = mix([own, *held])
                z = z if x is None else z + x.sin() * s
                losses.append((torch.tanh(z) * (1 + 0.5 * torch.sin(s))).sum())
                losses[-1] = losses[-1] + 0.3 * (features(own) ** 2).sum()
                largest.append(z.max())
            loss = torch.stack(losses)
            loss = loss.mean() if combine == "mean" else loss.sum()
            return loss, {"largest": torch.stack(largest).mean()}

        return objective

    def _signal(self, level: int) -> None:
        given = self._reads(level + 1, [])
        if not given:
            return
        mix, kind = self._mixer(), self.rng.choice(["rows", "tuple", "sum", "mean"])
        data = self.rng.choice([*self.loaders, None])
        samples = Samples(given, data is not None)

        def function(*given):
            each = []
            for held, x in samples(given):
                z, s = mix(held)
                each.append(torch.sin(z if x is None else z + x) * s)
            made = torch.stack(each)
            if kind == "tuple":
                return torch.tanh(made), made[:, :2]
            return {"rows": made, "sum": made.sum(0), "mean": made.mean(0)}[kind]

        combine = kind if kind in ("sum", "mean") or not (data or samples.reads_rows) else None
        self.signals.append(
            mlopt.signal(
                given=given,
                data=data,
                combine="mean" if combine in ("rows", "tuple") else combine,
                name=f"s{len(self.nodes)}",
            )(function)
        )
        self.nodes.append(self.signals[-1])


class Samples:
    """What a function is given, sample by sample.

    Args:
        given: what it reads, as declared.
        data: whether it has batches.
    """

    def __init__(self, given: list[Any], data: bool) -> None:
        self.data = data
        self.lined = [
            [_lined(g) for g in each] if isinstance(each, list) else _lined(each) for each in given
        ]

    @property
    def reads_rows(self) -> bool:
        """Whether anything that it reads has a row for each sample."""
        return any(any(each) if isinstance(each, list) else each for each in self.lined)

    def __call__(self, given: Sequence[Any]) -> list[tuple[list[Any], Tensor | None]]:
        *given, batch = given if self.data else (*given, None)
        count = len(batch) if batch is not None else max(self._rows(given), default=1)
        return [
            (
                [self._row(lined, held, b) for lined, held in zip(self.lined, given, strict=True)],
                None if batch is None else batch[b],
            )
            for b in range(count)
        ]

    def _rows(self, given: Sequence[Any]) -> list[int]:
        found = []
        for lined, held in zip(self.lined, given, strict=True):
            pairs = zip(lined, held, strict=True) if isinstance(lined, list) else [(lined, held)]
            found += [len(v[0] if isinstance(v, tuple) else v) for is_lined, v in pairs if is_lined]
        return found

    def _row(self, lined: Any, held: Any, b: int) -> Any:
        if isinstance(lined, list):
            return [self._row(one, v, b) for one, v in zip(lined, held, strict=True)]
        if not lined:
            return held
        return tuple(t[b] for t in held) if isinstance(held, tuple) else held[b]


def _lined(source: Any) -> bool:
    source = getattr(source, "source", source)
    return isinstance(source, mlopt.Signal) and source.combine is None
