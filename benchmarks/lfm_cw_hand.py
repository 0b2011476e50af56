"""The LFM-CW step as a loop written by hand: Eqs. 6 to 18 with torch alone, as fast as they go."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mlopt.generators import discriminator_loss, generator_loss

LR, GAN_LR, MOMENTUM, DECAY, CLIP, RADIUS, LAMBDA = 0.025, 2e-4, 0.9, 3e-4, 5.0, 0.01, 1.0


class HandLoop:
    """One step of LFM-CW; `variant` as in `lfm_cw_step.py`."""

    def __init__(self, world: Any, variant: str) -> None:
        self.w, self.variant = world, variant
        self.p = {n: list(getattr(world, n).parameters()) for n in ("a", "w1", "w2", "g", "h")}
        if variant != "first order":
            self.ahead = {n: copy.deepcopy(getattr(world, n)) for n in ("w1", "w2", "g")}
            self.q = {n: list(m.parameters()) for n, m in self.ahead.items()}

    # Equations. `seed` fixes the generator's noise, for both sides of a difference.

    def stage1(self) -> Tensor:
        x, y = self.w.train
        return cross_entropy(self.w.w1(x, self.w.a()), y)

    def adversary(self, seed: int) -> Tensor:
        torch.manual_seed(seed)
        (x, y), a = self.w.train, self.w.a
        return discriminator_loss(self.w.h(x, y, a()), self.w.h(self.w.g(y).detach(), y, a()))

    def gan(self, seed: int) -> Tensor:
        torch.manual_seed(seed)
        y = self.w.train[1]
        return generator_loss(self.w.h(self.w.g(y), y, self.w.a()))

    def class_losses(self, w1: nn.Module) -> Tensor:
        x, y = self.w.valid
        return self.w.state(cross_entropy(w1(x, self.w.a()), y, reduction="none"), y)

    def stage2(self, weights: Tensor, fake: Tensor) -> Tensor:
        (x, y), a = self.w.train, self.w.a
        mistakes = cross_entropy(self.w.w2(fake, a()), y, reduction="none")
        return cross_entropy(self.w.w2(x, a()), y) + LAMBDA * (weights[y] * mistakes).mean()

    def stage3(self, w2: nn.Module) -> Tensor:
        x, y = self.w.valid
        return cross_entropy(w2(x, self.w.a()), y)

    # A step.

    def step(self, seeds: dict[str, int] | None = None) -> None:
        seeds = seeds or dict.fromkeys(("discriminator", "generator", "synthetic"), 1)
        (self.first if self.variant == "first order" else self.second)(seeds)

    def first(self, seeds: dict[str, int]) -> None:
        p = self.p
        self.update("w1", torch.autograd.grad(self.stage1(), p["w1"]))
        self.update(
            "h",
            torch.autograd.grad(self.adversary(seeds["discriminator"]), p["h"], allow_unused=True),
        )
        self.update("g", torch.autograd.grad(self.gan(seeds["generator"]), p["g"]))
        with torch.no_grad():
            weights = self.class_losses(self.w.w1)
            torch.manual_seed(seeds["synthetic"])
            fake = self.w.g(self.w.train[1])
        self.update("w2", torch.autograd.grad(self.stage2(weights, fake), p["w2"]))
        self.update("a", torch.autograd.grad(self.stage3(self.w.w2), p["a"]))

    def second(self, seeds: dict[str, int]) -> None:
        p, q, exact, base = self.p, self.q, self.variant == "exact", self.variant == "one-sided"
        a = p["a"]

        def grads(loss: Tensor, own: list[Any], others: list[Any]) -> tuple[list[Any], list[Any]]:
            """dF/dw, with a graph for exact products; dF/dr too if the difference re-uses it."""
            found = torch.autograd.grad(
                loss, own + (others if base else []), create_graph=exact, allow_unused=True
            )
            return list(found[: len(own)]), list(found[len(own) :])

        g1, r1 = grads(self.stage1(), p["w1"], a)
        self.momentum_ahead("w1", g1)
        gh = torch.autograd.grad(self.adversary(seeds["discriminator"]), p["h"], allow_unused=True)
        gg, rg = grads(self.gan(seeds["generator"]), p["g"], a)
        with torch.no_grad():
            for ahead, now, g in zip(q["g"], p["g"], gg, strict=True):
                torch.sub(now, g, alpha=GAN_LR, out=ahead)

        weights_graph = self.class_losses(self.ahead["w1"])
        torch.manual_seed(seeds["synthetic"])
        fake_graph = self.ahead["g"](self.w.train[1])
        weights, fake = (
            weights_graph.detach().requires_grad_(),
            fake_graph.detach().requires_grad_(),
        )

        g2, r2 = grads(self.stage2(weights, fake), p["w2"], [*a, weights, fake])
        self.momentum_ahead("w2", g2)
        found = torch.autograd.grad(self.stage3(self.ahead["w2"]), a + q["w2"])
        total, v2 = list(found[: len(a)]), found[len(a) :]

        mixed = self.mixed(
            "w2", g2, r2, v2, LR, [*a, weights, fake], lambda: self.stage2(weights, fake)
        )
        self.subtract(total, mixed[: len(a)])
        found = torch.autograd.grad(weights_graph, a + q["w1"], -mixed[-2])
        self.subtract(total, [-t for t in found[: len(a)]])
        self.subtract(total, self.mixed("w1", g1, r1, found[len(a) :], LR, a, self.stage1))
        u = torch.autograd.grad(fake_graph, q["g"], -mixed[-1])
        self.subtract(
            total, self.mixed("g", gg, rg, u, GAN_LR, a, lambda: self.gan(seeds["generator"]))
        )

        for name, g in (("w1", g1), ("h", gh), ("g", gg), ("w2", g2), ("a", total)):
            self.update(name, g)

    def mixed(
        self, name: str, g: list[Any], r: list[Any], c: Any, lr: float, others: list[Any], loss: Any
    ) -> list[Any]:
        """d/dr < dF/dw , lr c >"""
        if self.variant == "exact":
            u = torch._foreach_mul(list(c), lr)
            return list(torch.autograd.grad(g, others, u, retain_graph=True))
        now, u = self.p[name], torch._foreach_mul(list(c), lr)
        e = RADIUS / torch.linalg.vector_norm(torch.stack(torch._foreach_norm(u)))
        with torch.no_grad():
            saved = [p.clone() for p in now]
            torch._foreach_add_(now, torch._foreach_mul(u, e))
        plus = torch.autograd.grad(loss(), others)
        if self.variant == "central":
            with torch.no_grad():
                torch._foreach_copy_(now, saved)
                torch._foreach_sub_(now, torch._foreach_mul(u, e))
            r, e = list(torch.autograd.grad(loss(), others)), 2 * e
        with torch.no_grad():
            torch._foreach_copy_(now, saved)
        return [(t - s) / e for t, s in zip(plus, r, strict=True)]

    def momentum_ahead(self, name: str, g: list[Any]) -> None:
        """What SGD with momentum and weight decay would do, into the second copy."""
        now, state = self.p[name], self.w.optimizers[name].state
        with torch.no_grad():
            step = torch._foreach_add(g, now, alpha=DECAY)
            if state:
                torch._foreach_add_(
                    step, [state[p]["momentum_buffer"] for p in now], alpha=MOMENTUM
                )
            torch._foreach_copy_(self.q[name], torch._foreach_add(now, step, alpha=-LR))

    def subtract(self, total: list[Any], terms: list[Any]) -> None:
        for i, t in enumerate(terms):
            total[i] = total[i] - t

    def update(self, name: str, g: Any) -> None:
        for p, t in zip(self.p[name], g, strict=True):
            p.grad = None if t is None else t.detach()
        if name in ("w1", "w2"):
            nn.utils.clip_grad_norm_(self.p[name], CLIP)
        self.w.optimizers[name].step()
