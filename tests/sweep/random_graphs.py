"""Random lists of problems and signals.

Nothing steers them towards staged or nested graphs but how often a node reads the variable of a
higher one.
"""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import torch
from case_graphs import module, parameter, tensor
from cases import warmed
from torch import Tensor, nn

import mlopt
from mlopt import Frozen, OneStep, StopGradient

INPUTS = 2


def draw_graph(seed: int, device: torch.device) -> list[Any]:
    """A list of problems and signals of 2 to 5 levels, lowest first."""
    return _Drawing(seed, device).nodes


class _Drawing:
    levels = (2, 5)  # the fewest and the most

    def __init__(self, seed: int, device: torch.device) -> None:
        self.rng, self.device, self.tensors = random.Random(seed), device, 1000 * seed
        self.nodes: list[Any] = []
        self.signals: list[Any] = []
        levels = self.rng.randint(*self.levels)
        self.upward = self.rng.choice([0.0, 0.0, 0.03, 0.2])
        sizes = [
            self.rng.choice([1, 2, 2, 3] if k + 1 < levels else [1, 1, 1, 2]) for k in range(levels)
        ]
        self.over = [
            [
                [self._variable(f"{k}{i}{j}") for j in range(self.rng.choice([1, 1, 2]))]
                for i in range(n)
            ]
            for k, n in enumerate(sizes)
        ]
        self.top = [v for over in self.over[-1] for v in over]
        for level, row in enumerate(self.over):
            for over in row:
                self._problem(level, over)
            if level + 1 < levels:
                for _ in range(self.rng.choice([0, 1, 1, 2])):
                    self._signal(level)

    def _seed(self) -> int:
        self.tensors += 1
        return self.tensors

    def _variable(self, name: str) -> mlopt.Variable:
        if self.rng.random() < 0.6:
            return mlopt.Variable(
                parameter(self.device, self._seed(), self.rng.randint(1, 3)), f"v{name}"
            )
        net = nn.Sequential(nn.Linear(INPUTS, 2), nn.Tanh(), nn.Linear(2, 2))
        if self.rng.random() < 0.3:
            net[2].weight = net[0].weight
        net = module(net, self.device, self._seed())
        if self.rng.random() < 0.3:
            net[0].bias.requires_grad_(False)
        if self.rng.random() < 0.3:
            net.register_parameter("unused", parameter(self.device, self._seed(), 2))
        return mlopt.Variable(net, f"v{name}")

    def _reads(self, level: int, own: list[Any]) -> list[Any]:
        """What a node of a level reads: top variables, lower ones, signals, seldom higher ones."""
        rng = self.rng
        chosen: list[Any] = [v for v in self.top if v not in own and rng.random() < 0.75]
        for k, row in enumerate(self.over):
            for v in (v for over in row for v in over):
                near = 0.75 if k == level - 1 else 0.25
                if v in own or v in chosen or v in self.top:
                    continue
                if rng.random() < (near if k < level else self.upward):
                    chosen.append(v)
        chosen += [s for s in self.signals if rng.random() < 0.5]
        rng.shuffle(chosen)
        marked = [mlopt.stop(s) if rng.random() < 0.12 else s for s in chosen]
        given: list[Any] = []
        while marked:
            if len(marked) > 1 and rng.random() < 0.3:
                given.append([marked.pop(), marked.pop()])
            else:
                given.append(marked.pop())
        return given

    def _method(self) -> Any:
        lr = self.rng.choice([0.1, 0.5, 1.0])
        return self.rng.choices(
            [OneStep(lr=lr), OneStep(), Frozen(), StopGradient(OneStep(lr=lr))], [5, 3, 1, 1]
        )[0]

    def _optimizer(self, parameters: list[Tensor]) -> torch.optim.Optimizer:
        options = self.rng.choice(
            [
                {"lr": 0.1},
                {"lr": 0.5, "weight_decay": 0.1},
                {"lr": 0.3, "momentum": 0.9, "weight_decay": 0.01},
                {"lr": 0.3, "momentum": 0.8, "dampening": 0.5},
                {"lr": 0.2, "momentum": 0.7, "nesterov": True, "maximize": True},
            ]
        )
        return warmed(torch.optim.SGD(parameters, **options), self.rng.choice([0, 1, 2]))

    def _problem(self, level: int, over: list[Any]) -> None:
        parameters = [p for v in over for p in v.parameters()]
        objective = self._objective(len(over))
        as_list = len(over) > 1 or self.rng.random() < 0.2
        self.nodes.append(
            mlopt.problem(
                over=over if as_list else over[0],
                given=self._reads(level, over),
                optimizer=self._optimizer(parameters),
                hypergrad=self._method(),
                name=f"p{len(self.nodes)}",
            )(objective)
        )

    def _objective(self, seed: int) -> Any:
        mix, noisy = self._mixer(), self.rng.random() < 0.2

        def objective(own, *given):
            z, s = mix([own, *given])
            if noisy:
                z = z + 0.3 * torch.randn(3, dtype=z.dtype, device=z.device)
            value = (torch.tanh(z) * (1 + 0.5 * torch.sin(s))).sum()
            value = value + 0.3 * (features(own) ** 2).sum() + 0.1 * (features(own) ** 3).sum()
            return value, {"largest": z.max()}

        return objective

    def _signal(self, level: int) -> None:
        given = self._reads(level + 1, [])
        if not given:
            return
        mix, kind = self._mixer(), self.rng.choice(["tensor", "tuple", "dict"])

        def function(*given):
            z, s = mix(list(given))
            if kind == "tensor":
                return torch.sin(z) * s
            if kind == "tuple":
                return torch.tanh(z), z[:2] * torch.cos(s[:2])
            return {
                "value": torch.softmax(z * s, 0),
                "order": torch.tensor([2, 0, 1], device=z.device),
            }

        name = f"s{len(self.nodes)}"
        self.signals.append(mlopt.signal(given=given, name=name)(function))
        self.nodes.append(self.signals[-1])

    def _mixer(self) -> Any:
        """Two random projections of all that a function is given, each onto three numbers."""
        seed, device = self._seed(), self.device
        self.tensors += 50

        @cache
        def matrix(i: int, size: int, which: int) -> Tensor:
            return tensor(device, seed + 2 * i + which, 3, size, scale=0.8)

        def mix(arguments: list[Any]) -> list[Tensor]:
            parts = [features(a) for a in arguments]
            return [
                sum(matrix(i, f.numel(), which) @ f for i, f in enumerate(parts))  # type: ignore[misc]
                for which in (0, 1)
            ]

        return mix


def features(argument: Any) -> Tensor:
    """A vector of whatever a function may be given."""
    if isinstance(argument, Tensor):
        return argument.flatten()
    if isinstance(argument, nn.Module):
        return argument(tensor(argument[0].weight.device, 12345, 2, INPUTS)).flatten()
    if isinstance(argument, dict):
        return argument["value"][argument["order"]] * 1.5
    return torch.cat([features(a) for a in argument])
