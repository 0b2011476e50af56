"""What cannot be evaluated as one: found, said once, and run one by one."""

from __future__ import annotations

import pytest
import torch
from evaluation.stacked import ROUNDING, Learners, close, learners, net_problem, run
from small import F64, assert_same, batches, mlp, seeded, state_of
from torch import nn
from torch.nn.functional import dropout, mse_loss

import mlopt
from mlopt import Central, OneStep


@pytest.mark.parametrize("what", ["index", "layer", "gradient", "count"])
def test_functions_that_differ_are_found_before_the_first_step(what):
    def learner(j: int) -> mlopt.Problem:
        def loss(w, batch):
            if what == "index":
                return mse_loss(w(batch[0]), batch[1]) * (1 + 0.01 * j)
            if what == "count":
                return mse_loss(w(batch[0]), batch[1]), {"count": torch.tensor(100 + j)}
            if what == "gradient" and j == 1:
                return mse_loss(w(batch[0]), batch[1]) + 0 * w[0].weight.detach().sum()
            if what == "gradient":
                h = w[0](batch[0])
                return mse_loss(w[2](w[1](h.detach() + 0.5 * (h - h.detach()))), batch[1])
            return mse_loss(w(batch[0]), batch[1])

        net = mlp(seed=j)
        if what == "layer" and j == 2:
            net[1] = nn.ReLU()
        return net_problem(j, loss, net=net)

    problems = [learner(1), learner(2)]
    engine = mlopt.Engine([mlopt.Stack(problems)])
    before = state_of(engine)
    with pytest.raises(mlopt.GraphError, match="p2 is evaluated by the function of p1") as caught:
        engine.step()
    assert ("another gradient" in str(caught.value)) == (what == "gradient")
    assert_same(before, state_of(engine))


def test_functions_that_differ_are_found_behind_dropout():
    """All members draw the same numbers in the comparison."""

    def engine(factor: float) -> mlopt.Engine:
        def learner(j: int) -> mlopt.Problem:
            def loss(w, batch):
                h = torch.tanh(w[0](batch[0]))
                noise = torch.randn_like(h) * torch.rand(4, dtype=F64)
                return mse_loss(w[2](dropout(h, 0.5) + noise), batch[1]) * factor**j

            return net_problem(j, loss)

        return mlopt.Engine([mlopt.Stack([learner(1), learner(2)])])

    engine(1.0).step()
    with pytest.raises(mlopt.GraphError, match="p2 is evaluated by the function of p1"):
        engine(1.01).step()


def test_what_is_computed_in_fewer_bits_is_compared_so():
    """Under autocast a stack rounds otherwise than its members alone, as on a GPU in TF32."""

    def net() -> nn.Module:
        return nn.Sequential(
            nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 4)
        )

    def engine(seed: int, factor: float) -> mlopt.Engine:
        def learner(j: int) -> mlopt.Problem:
            def loss(w, batch):
                with torch.autocast("cpu", torch.bfloat16):
                    answers = w(batch[0])
                right = (answers > 0) == (batch[1] > 0)
                return mse_loss(answers.float(), batch[1]) * factor**j, {"right": right.sum()}

            g = torch.Generator().manual_seed(j)
            data = [(torch.randn(64, 8, generator=g), torch.randn(64, 4, generator=g))]
            return net_problem(j, loss, data=data, net=seeded(10 * seed + j, net).float())

        return mlopt.Engine([mlopt.Stack([learner(1), learner(2), learner(3)])])

    for seed in range(5):
        engine(seed, 1.0).step()
        with pytest.raises(mlopt.GraphError, match="p2 is evaluated by the function of p1"):
            engine(seed, 1.25).step()


def test_what_vmap_cannot_run_is_said_once_and_runs_one_by_one():
    def learner(j: int) -> mlopt.Problem:
        def loss(w, batch):
            value = mse_loss(w(batch[0]), batch[1])
            return value * 2 if value.item() > 0 else value

        return net_problem(j, loss)

    plain = mlopt.Engine([learner(1), learner(2)])
    engine = mlopt.Engine([mlopt.Stack([learner(1), learner(2)])])
    with pytest.warns(mlopt.CapabilityWarning, match="p1, p2 are evaluated one by one.*item"):
        engine.step()
    plain.step()
    for _ in range(2):
        assert_same(engine.step(), plain.step())
    assert_same(state_of(engine), state_of(plain))
    assert "evaluated one by one, not stacked" in str(engine.plan())


def test_what_vmap_cannot_run_later_on_runs_one_by_one_from_then():
    seen: list[int] = []

    def learner(j: int) -> mlopt.Problem:
        def loss(w, batch):
            value = mse_loss(w(batch[0]), batch[1])
            seen.append(j)
            return value * 2 if len(seen) > 12 and value.item() > 0 else value

        return net_problem(j, loss)

    engine = mlopt.Engine([mlopt.Stack([learner(1), learner(2)])])
    with pytest.warns(mlopt.CapabilityWarning, match="item") as caught:
        engine.run(steps=10, progress=False)
    assert len(caught) == 1


def test_batches_of_different_sizes_are_evaluated_one_by_one():
    """As at the end of an epoch of loaders of unequal length."""

    def learner(j: int) -> mlopt.Problem:
        short = [batches(1, size=6, seed=j)[0], batches(1, size=6 - j, seed=j)[0]]
        return net_problem(j, data=short)

    plain = mlopt.Engine([learner(1), learner(2)])
    engine = mlopt.Engine([mlopt.Stack([learner(1), learner(2)])])
    for _ in range(4):
        close(engine.step(), plain.step())
    close(state_of(engine), state_of(plain))


@pytest.mark.parametrize(
    "method",
    [
        mlopt.Implicit(product=Central()),
        mlopt.Sama(),
        mlopt.ZerothOrder(method=OneStep(0.1), samples=2),
        mlopt.Unrolled(2),
        mlopt.StopGradient(OneStep()),
    ],
    ids=lambda m: type(m).__name__,
)
@pytest.mark.filterwarnings("ignore::mlopt.ConvergenceWarning")
def test_methods_without_a_common_pullback_run_one_by_one(method):
    def make() -> Learners:
        made = learners(2)
        for p in (*made.first, *made.second):
            p.clip = None
        return made

    plain, before, _ = run(False, make, steps=2, hypergrad=method)
    seen, after, engine = run(True, make, steps=2, hypergrad=method)
    close(seen, plain, ROUNDING / 0.001)
    close(after, before, ROUNDING / 0.001)
    stopped = isinstance(method, mlopt.StopGradient)
    assert ("evaluated as one: first" in str(engine.plan())) == stopped
