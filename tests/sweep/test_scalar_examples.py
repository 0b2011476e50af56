"""Two examples small enough for paper: DARTS' architect and LFM-CW, with their known answers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from compare import agree, exact, kills, near, rounding
from torch import nn

import mlopt

SGD, Adam = torch.optim.SGD, torch.optim.Adam


def scalar(x: float, device: torch.device) -> nn.Parameter:
    return nn.Parameter(torch.tensor(x, dtype=torch.float64, device=device))


def one(engine: mlopt.Engine, problem: Any) -> float:
    (tensors,) = engine.hypergradient(problem).values()
    return tensors[""].item()


#: At most 100 operations on the way to a number, and sums of a tenth of their terms.
BY_HAND = rounding(100, condition=10)


def exactly(found: Any, expected: Any, bound: float = BY_HAND) -> None:
    exact(found, expected, bound)


def printed(found: float, expected: float, digits: int = 12) -> None:
    """A number that is known to so many decimals."""
    near(found, expected, 0.5001 * 10**-digits, scale=1.0, why="the last decimal that is printed")


# DARTS: L_tr = w a + w^2 / 2,  L_val = (w - 1)^2 / 2 + 0.3 a w.


def architect(
    device: torch.device,
    method: mlopt.AbstractHypergradient,
    *,
    buffer: float | None = 0.4,
    update_w: bool = True,
) -> tuple[mlopt.Engine, Any, Any, Any, Any]:
    W = mlopt.Variable(scalar(2.0, device), "w")
    A = mlopt.Variable(scalar(0.5, device), "a")
    sgd = SGD(W.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    if buffer is not None:
        sgd.state[W.value]["momentum_buffer"] = torch.full_like(W.value.detach(), buffer)

    @mlopt.problem(over=W, given=[A], optimizer=sgd if update_w else None, hypergrad=method)
    def training(w, a):
        return w * a + w**2 / 2

    @mlopt.problem(
        over=A,
        given=[W],
        optimizer=Adam(A.parameters(), lr=3e-4, betas=(0.5, 0.999), weight_decay=1e-3),
    )
    def validation(a, w):
        return (w - 1) ** 2 / 2 + 0.3 * a * w, {"w": w}

    engine = mlopt.Engine([training, validation], schedule=mlopt.UpperFirst())
    return engine, training, validation, W, A


def darts_closed_form(w: float, a: float, buffer: float) -> tuple[float, float]:
    """(w', the second-order gradient), by hand; buffer is 0.9 times the momentum buffer."""
    ahead = w - 0.1 * (a + w + 0.01 * w + buffer)
    return ahead, 0.3 * ahead - 0.1 * (ahead - 1 + 0.3 * a)  # d2 L_tr / dw da = 1


@pytest.mark.parametrize("product", [mlopt.Exact(), mlopt.Central(), mlopt.OneSided()], ids=repr)
@pytest.mark.parametrize(("buffer", "known"), [(0.4, 0.4274), (None, 0.4346)])
def test_darts_second_order(
    buffer: float | None, known: float, product: Any, device: torch.device
) -> None:
    """L_tr is bilinear in (w, a), so that differences are exact but for rounding."""
    engine, _, validation, _, A = architect(device, mlopt.OneStep(product=product), buffer=buffer)
    ahead, gradient = darts_closed_form(2.0, 0.5, 0.9 * (buffer or 0.0))
    # of differences, rounding is divided by their radius
    bound = BY_HAND if product == mlopt.Exact() else BY_HAND / product.radius
    kills(2 * gradient, gradient, bound)
    exactly(one(engine, validation), gradient, bound)
    exactly(one(engine, validation), known, bound)
    exactly(ahead, 1.712 if buffer else 1.748)
    metrics = engine.step()
    exactly(metrics["validation/w"].item(), ahead)
    exactly(ahead - 1 + 0.3 * 0.5, 0.862 if buffer else 0.898)
    # the real weight step comes last, on the new architecture
    raw = A.value.item() + 2.0 + 0.01 * 2.0 + 0.9 * (buffer or 0.0)
    exactly(engine.graph.problems[0].over[0].value.item(), 2.0 - 0.1 * raw)


def test_darts_first_order(device: torch.device) -> None:
    engine, *_, validation, _, _ = architect(device, mlopt.Frozen())
    exactly(one(engine, validation), 0.6)
    engine, *_, validation, _, _ = architect(device, mlopt.StopGradient(mlopt.OneStep()))
    exactly(one(engine, validation), 0.3 * 1.712)  # the direct term at the look-ahead


def test_darts_two_adam_steps(device: torch.device) -> None:
    engine, *_, A = architect(device, mlopt.Frozen(), update_w=False)
    a, mean, second = 0.5, 0.0, 0.0
    for t, known in ((1, 0.499700000005), (2, 0.499400000035)):
        engine.step()
        d = 0.3 * 2.0 + 1e-3 * a
        mean, second = 0.5 * mean + 0.5 * d, 0.999 * second + 0.001 * d * d
        a -= 3e-4 * (mean / (1 - 0.5**t)) / (math.sqrt(second / (1 - 0.999**t)) + 1e-8)
        exactly(A.value.item(), a)
        printed(A.value.item(), known)
        exact(0.5 - A.value.item(), 0.5 - a, rounding(30, condition=0.5 / (0.5 - a)))


# LFM-CW.

B = (0.3, -0.2)


def l_train(a: Any, w: Any) -> Any:
    return (w - a) ** 2 / 2 + 0.1 * w * a**2


def l_class(c: int, a: Any, w: Any) -> Any:
    return (w - c) ** 2 / 2 + B[c - 1] * a * w


def l_gan(a: Any, g: Any, h: Any) -> Any:
    return a * g * h + g**2 / 2 + 0.3 * a**2 * g


def lfm_cw(
    device: torch.device,
    product: mlopt.AbstractProduct,
    *,
    hold_stage1: bool = False,
    hold_generator: bool = False,
    hold_stage2: bool = False,
    stop_losses: bool = False,
    stop_fake: bool = False,
) -> tuple[mlopt.Engine, Any, dict[str, Any]]:
    start = {"w1": 1.3, "w2": -0.4, "g": 0.6, "h": 0.9, "a": 0.7}
    V = {name: mlopt.Variable(scalar(x, device), name) for name, x in start.items()}

    def method(lr: float, hold: bool) -> mlopt.AbstractHypergradient:
        step = mlopt.OneStep(lr=lr, product=product)
        return mlopt.StopGradient(step) if hold else step

    def sgd(name: str, lr: float, **options: Any) -> Any:
        return SGD(V[name].parameters(), lr=lr, **options)

    @mlopt.problem(
        over=V["w1"], given=[V["a"]], optimizer=sgd("w1", 0.1), hypergrad=method(0.1, hold_stage1)
    )
    def stage1(w1, a):
        return l_train(a, w1)

    @mlopt.problem(
        over=V["h"],
        given=[V["g"], V["a"]],
        optimizer=sgd("h", 0.2, maximize=True),
        hypergrad=mlopt.Frozen(),
    )
    def discriminator(h, g, a):
        return l_gan(a, g, h)

    @mlopt.problem(
        over=V["g"],
        given=[V["h"], V["a"]],
        optimizer=sgd("g", 0.2),
        hypergrad=method(0.2, hold_generator),
    )
    def generator(g, h, a):
        return l_gan(a, g, h)

    @mlopt.signal(given=[V["w1"], V["a"]])
    def losses(w1, a):
        return torch.stack([l_class(c, a, w1) for c in (1, 2)])

    @mlopt.signal(given=[V["g"]])
    def fake(g):
        return torch.stack([0.5 + c * g for c in (1, 2)])

    @mlopt.problem(
        over=V["w2"],
        given=[
            V["a"],
            mlopt.stop(losses) if stop_losses else losses,
            mlopt.stop(fake) if stop_fake else fake,
        ],
        optimizer=sgd("w2", 0.05),
        hypergrad=method(0.05, hold_stage2),
    )
    def stage2(w2, a, losses, fake):
        wrong = [(w2 * fake[i] - c) ** 2 / 2 * (1 + 0.1 * a) for i, c in enumerate((1, 2))]
        return l_train(a, w2) + losses[0] * wrong[0] + losses[1] * wrong[1]

    @mlopt.problem(over=V["a"], given=[V["w2"]], optimizer=sgd("a", 0.1))
    def stage3(a, w2):
        return (w2 - 1.5) ** 2 / 2 + 0.2 * a * w2

    engine = mlopt.Engine([stage1, discriminator, generator, losses, fake, stage2, stage3])
    return engine, stage3, V


def lfm_closed_form() -> dict[str, float]:
    """Every number by hand, in plain Python."""
    a, w1, w2, g, h = 0.7, 1.3, -0.4, 0.6, 0.9
    xi_1, xi_2, xi_g = 0.1, 0.05, 0.2
    w1p = w1 - xi_1 * (w1 - a + 0.1 * a**2)
    gp = g - xi_g * (a * h + g + 0.3 * a**2)
    x = {c: 0.5 + c * gp for c in (1, 2)}
    lc = {c: l_class(c, a, w1p) for c in (1, 2)}
    slope = {c: (w2 * x[c] - c) * x[c] * (1 + 0.1 * a) for c in (1, 2)}
    w2p = w2 - xi_2 * (w2 - a + 0.1 * a**2 + sum(lc[c] * slope[c] for c in (1, 2)))
    v2 = w2p - 1.5 + 0.2 * a
    s = {c: slope[c] * v2 for c in (1, 2)}
    u1 = sum(s[c] * (w1p - c + B[c - 1] * a) for c in (1, 2))
    ug = sum(lc[c] * c * (2 * w2 * x[c] - c) for c in (1, 2)) * (1 + 0.1 * a) * v2
    mixed = -1 + 0.2 * a + sum(lc[c] * 0.1 * (w2 * x[c] - c) * x[c] for c in (1, 2))
    terms = {
        "direct": 0.2 * w2p,
        "a": -xi_2 * mixed * v2,
        "b": -xi_2 * sum(s[c] * B[c - 1] * w1p for c in (1, 2)),
        "c": xi_2 * xi_1 * (-1 + 0.2 * a) * u1,
        "d": xi_2 * xi_g * (h + 0.6 * a) * ug,
    }
    value = (w2p - 1.5) ** 2 / 2 + 0.2 * a * w2p
    return {"w1": w1p, "g": gp, "w2": w2p, "value": value, "total": sum(terms.values()), **terms}


KNOWN = {
    "w1": 1.2351,
    "g": 0.3246,
    "w2": -0.312522036667,
    "value": 1.598864981569,
    "direct": -0.062504407333,
    "a": -0.077378053966,
    "b": 0.026121389806,
    "c": 0.015927354914,
    "d": 0.027751457578,
    "total": -0.070082259002,
}

# Which parts stand still in two hypergradients whose difference is one term.
ONLY_DIRECT = {"hold_stage2": True}
ISOLATED: dict[str, list[tuple[dict[str, bool], dict[str, bool] | None]]] = {
    "direct": [(ONLY_DIRECT, None)],
    "a": [({"stop_losses": True, "stop_fake": True}, ONLY_DIRECT)],
    "b": [
        ({"hold_stage1": True, "stop_fake": True}, {"stop_losses": True, "stop_fake": True}),
        ({"hold_stage1": True}, {"stop_losses": True}),
    ],
    "c": [
        ({}, {"hold_stage1": True}),
        ({"stop_fake": True}, {"hold_stage1": True, "stop_fake": True}),
    ],
    "d": [
        ({}, {"hold_generator": True}),
        ({}, {"stop_fake": True}),
        ({"stop_losses": True}, {"stop_losses": True, "hold_generator": True}),
    ],
}


def test_the_closed_form_gives_the_printed_digits() -> None:
    computed = lfm_closed_form()
    for name, known in KNOWN.items():
        printed(computed[name], known)


def test_lfm_cw_values(device: torch.device) -> None:
    engine, stage3, V = lfm_cw(device, mlopt.Exact())
    expected = lfm_closed_form()
    exactly(one(engine, stage3), expected["total"])
    metrics = engine.step()
    exactly(metrics["stage3/loss"].item(), expected["value"])
    exactly(metrics["stage3/gradient_norm"].item(), abs(expected["total"]))
    for name in ("w1", "g", "w2"):  # look-ahead and update are the same plain step here
        exactly(V[name].value.item(), expected[name])
    exactly(V["h"].value.item(), 0.9 + 0.2 * 0.7 * 0.6)
    exactly(V["a"].value.item(), 0.7 - 0.1 * expected["total"])
    weights = [l_class(c, 0.7, expected["w1"]) for c in (1, 2)]
    exactly(engine.signals["losses"].tolist(), weights)
    exactly(engine.signals["fake"].tolist(), [0.5 + c * expected["g"] for c in (1, 2)])


@pytest.mark.parametrize("term", ISOLATED)
@pytest.mark.parametrize(
    ("product", "bound", "why"),
    # every mixed derivative but stage1's is constant along its direction: Central has only rounding
    [
        (mlopt.Exact(), BY_HAND, ""),
        (mlopt.Central(), BY_HAND / 0.01, ""),
        (mlopt.OneSided(), 0.02, "radius 0.01, half the second derivative, at most four times"),
    ],
    ids=["exact", "central", "one_sided"],
)
def test_lfm_cw_terms(
    term: str, product: Any, bound: float, why: str, device: torch.device
) -> None:
    form = lfm_closed_form()
    expected = form[term]
    if not why:  # a small difference of two totals
        bound *= 1 + abs(form["total"] / expected)
    kills(2 * expected, expected, bound)
    for with_it, without in ISOLATED[term]:
        engine, stage3, _ = lfm_cw(device, product, **with_it)
        found = one(engine, stage3)
        if without is not None:
            engine, stage3, _ = lfm_cw(device, product, **without)
            found -= one(engine, stage3)
        agree(found, expected, bound, why)
