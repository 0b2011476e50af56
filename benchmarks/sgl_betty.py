"""The SGL step in Betty 0.2.1, as its users would write it."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any

from sgl_graph import CLIP, LAMBDA, RADIUS, World
from torch.nn.functional import cross_entropy

__all__ = ["betty_step"]


def betty_step(world: World, device: str) -> Callable[[], None] | None:
    """A function that takes one step (type darts); None where Betty is not installed.

    A teacher's labels are computed inside its student's objective: Betty's nodes are problems.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from betty.configs import Config, EngineConfig
            from betty.engine import Engine
            from betty.problems import ImplicitProblem
    except ImportError:
        return None
    group = range(len(world.learners))

    class V(ImplicitProblem):
        k = 0

        def training_step(self, batch):
            x, y = batch
            return cross_entropy(self.module(x, self.a.module[self.k]()), y)

    class W(ImplicitProblem):
        k = 0

        def training_step(self, batch):
            (x, y), (u,) = batch
            weights = self.a.module[self.k]()
            loss = cross_entropy(self.module(x, weights), y)
            if len(group) == 1:
                return loss
            answers = self.module(u, weights)
            for j in group:
                if j != self.k:
                    labels = getattr(self, f"v{j}")(u, self.a.module[j]()).softmax(-1)
                    loss = loss + LAMBDA * cross_entropy(answers, labels)
            return loss

    class A(ImplicitProblem):
        def training_step(self, batch):
            x, y = batch
            return sum(cross_entropy(getattr(self, f"w{k}")(x, self.module[k]()), y) for k in group)

    def make(kind: Any, name: str, module: Any, key: Any, *loaders: Any, **options: Any) -> Any:
        return kind(
            name=name,
            config=Config(type="darts", darts_alpha=RADIUS, unroll_steps=1, **options),
            module=module,
            optimizer=world.optimizers[key],
            train_data_loader=loaders,
        )

    train, valid, unlabeled = [world.train], [world.valid], [(world.unlabeled,)]
    v, w = [], []
    for k, learner in enumerate(world.learners):
        clip = {"gradient_clipping": CLIP}
        v.append(make(V, f"v{k}", learner.v, ("v", k), train, **clip))
        w.append(make(W, f"w{k}", learner.w, ("w", k), train, unlabeled, **clip))
        v[k].k = w[k].k = k
    a = make(A, "a", world.group, "a", valid, retain_graph=True)  # it reads its own module too
    steering = [*v, *w] if len(group) > 1 else w  # who has a path to A
    up: dict[Any, list[Any]] = {w[k]: [a] for k in group}
    if len(group) > 1:
        up.update({v[k]: [w[j] for j in group if j != k] for k in group})
    engine = Engine(
        config=EngineConfig(
            train_iters=1, valid_step=10**9, strategy="cpu" if device == "cpu" else "gpu"
        ),
        problems=[*v, *w, a],
        dependencies={"u2l": {a: steering}, "l2u": up},
    )
    engine.train()
    counter = itertools.count(1)

    def step() -> None:
        engine.global_step = next(counter)
        engine.train_step()

    return step
