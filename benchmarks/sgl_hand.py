"""The SGL step as a loop written by hand: Eqs. 4 to 11 with torch alone, as fast as they go."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from sgl_graph import CLIP, DECAY, LAMBDA, LR, MOMENTUM, RADIUS, World
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

__all__ = ["HandLoop"]


class HandLoop:
    """One step of SGL; `product` as in `sgl_graph.py`.

    The second copy of each network holds the look-ahead, and, once that has been used, the standing
    weights while these are moved in place for a difference. The networks draw nothing at random;
    the buffers that a difference writes are not protected, as such loops do not.
    """

    def __init__(self, world: World, product: str) -> None:
        self.world, self.product = world, product
        self.group = range(len(world.learners))
        self.a = [list(learner.a.parameters()) for learner in world.learners]
        self.now = {(n, k): getattr(world.learners[k], n) for n in "vw" for k in self.group}
        self.p = {key: list(net.parameters()) for key, net in self.now.items()}
        if product != "first":
            self.ahead = {key: copy.deepcopy(net) for key, net in self.now.items()}
            self.q = {key: list(net.parameters()) for key, net in self.ahead.items()}

    # Equations.

    def stage1(self, k: int) -> Tensor:
        x, y = self.world.train
        return cross_entropy(self.now["v", k](x, self.world.learners[k].a()), y)

    def pseudo_labels(self, k: int, v: nn.Module) -> Tensor:
        return v(self.world.unlabeled, self.world.learners[k].a()).softmax(-1)

    def stage2(self, k: int, teachers: Sequence[Tensor]) -> Tensor:
        (x, y), w, weights = self.world.train, self.now["w", k], self.world.learners[k].a()
        loss = cross_entropy(w(x, weights), y)
        if not teachers:
            return loss
        answers = w(self.world.unlabeled, weights)
        return loss + LAMBDA * sum(cross_entropy(answers, labels) for labels in teachers)

    def stage3(self, k: int, w: nn.Module) -> Tensor:
        x, y = self.world.valid
        return cross_entropy(w(x, self.world.learners[k].a()), y)

    # A step.

    def step(self) -> None:
        (self.first if self.product == "first" else self.second)()

    def first(self) -> None:
        for k in self.group:
            self.update(("v", k), torch.autograd.grad(self.stage1(k), self.p["v", k]))
        labels: list[Tensor] = []
        if len(self.group) > 1:
            with torch.no_grad():
                labels = [self.pseudo_labels(k, self.now["v", k]) for k in self.group]
        for k in self.group:
            loss = self.stage2(k, self.others(labels, k))
            self.update(("w", k), torch.autograd.grad(loss, self.p["w", k]))
        self.update_architectures(
            [torch.autograd.grad(self.stage3(k, self.now["w", k]), self.a[k]) for k in self.group]
        )

    def second(self) -> None:
        gradients: dict[Any, Sequence[Tensor]] = {}
        base: dict[Any, Sequence[Tensor]] = {}

        def descend(key: Any, loss: Tensor, others: list[Tensor]) -> None:
            """The gradient and the look-ahead, and dF/dr too if the difference uses it again."""
            own = self.p[key]
            one_sided = self.product == "one-sided"
            found = torch.autograd.grad(loss, own + others if one_sided else own)
            gradients[key], base[key] = found[: len(own)], found[len(own) :]
            self.look_ahead(key, gradients[key])

        for k in self.group:
            descend(("v", k), self.stage1(k), self.a[k])
        graphs: list[Tensor] = []
        if len(self.group) > 1:
            graphs = [self.pseudo_labels(k, self.ahead["v", k]) for k in self.group]
        labels = [graph.detach().requires_grad_() for graph in graphs]
        for k in self.group:
            teachers = self.others(labels, k)
            descend(("w", k), self.stage2(k, teachers), self.a[k] + teachers)

        totals, cotangents = [], [torch.zeros_like(t) for t in labels]
        for k in self.group:
            a, teachers = self.a[k], self.others(labels, k)
            found = torch.autograd.grad(self.stage3(k, self.ahead["w", k]), a + self.q["w", k])
            mixed = self.mixed(
                ("w", k), found[len(a) :], base["w", k], a + teachers,
                lambda k=k, teachers=teachers: self.stage2(k, teachers),
            )  # fmt: skip
            totals.append([g - m for g, m in zip(found, mixed[: len(a)], strict=False)])
            for cotangent, m in zip(self.others(cotangents, k), mixed[len(a) :], strict=True):
                cotangent -= m
        for k, graph in enumerate(graphs):
            a = self.a[k]
            found = torch.autograd.grad(graph, a + self.q["v", k], cotangents[k])
            mixed = self.mixed(
                ("v", k), found[len(a) :], base["v", k], a, lambda k=k: self.stage1(k)
            )
            for total, g, m in zip(totals[k], found, mixed, strict=False):
                total += g - m

        for key, g in gradients.items():
            self.update(key, g)
        self.update_architectures(totals)

    def mixed(
        self,
        key: Any,
        cotangent: Sequence[Tensor],
        base: Sequence[Tensor],
        others: list[Tensor],
        loss: Callable[[], Tensor],
    ) -> list[Tensor]:
        """d/dr < dF/dw , lr c >, for all r at once."""
        now, saved = self.p[key], self.q[key]
        u = torch._foreach_mul(list(cotangent), LR)
        e = RADIUS / torch.linalg.vector_norm(torch.stack(torch._foreach_norm(u)))
        with torch.no_grad():
            torch._foreach_copy_(saved, now)
            torch._foreach_mul_(u, e)
            torch._foreach_add_(now, u)
        plus = torch.autograd.grad(loss(), others)
        if self.product == "central":
            with torch.no_grad():
                torch._foreach_copy_(now, torch._foreach_sub(saved, u))
            base, e = torch.autograd.grad(loss(), others), 2 * e
        with torch.no_grad():
            torch._foreach_copy_(now, saved)
        return [(t - s) / e for t, s in zip(plus, base, strict=True)]

    def look_ahead(self, key: Any, g: Sequence[Tensor]) -> None:
        """What SGD with momentum and weight decay would do, into the second copy."""
        now, state = self.p[key], self.world.optimizers[key].state
        with torch.no_grad():
            step = torch._foreach_add(list(g), now, alpha=DECAY)
            if state:
                buffers = [state[p]["momentum_buffer"] for p in now]
                torch._foreach_add_(step, buffers, alpha=MOMENTUM)
            torch._foreach_copy_(self.q[key], torch._foreach_add(now, step, alpha=-LR))

    def update(self, key: Any, g: Sequence[Tensor]) -> None:
        for p, t in zip(self.p[key], g, strict=True):
            p.grad = t
        nn.utils.clip_grad_norm_(self.p[key], CLIP)
        self.world.optimizers[key].step()

    def update_architectures(self, totals: Sequence[Sequence[Tensor]]) -> None:
        for parameters, gradient in zip(self.a, totals, strict=True):
            for p, t in zip(parameters, gradient, strict=True):
                p.grad = t
        self.world.optimizers["a"].step()

    @staticmethod
    def others(values: list[Tensor], k: int) -> list[Tensor]:
        return values[:k] + values[k + 1 :]
