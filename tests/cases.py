"""The table of methods and of graphs on which each method's law is checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from oracles import optimum, whole_step
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot, softplus

import mlopt
from mlopt import (
    CG,
    Central,
    Dense,
    Exact,
    Frozen,
    Implicit,
    Neumann,
    OneSided,
    OneStep,
    Sama,
    StopGradient,
)

SGD, Adam, AdamW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW


@dataclass(frozen=True)
class Recorder(mlopt.AbstractHypergradient):
    """Another method, unchanged, that keeps the responses it is given."""

    method: mlopt.AbstractHypergradient
    responses: list[mlopt.Response] = field(default_factory=list)
    cotangents: list[Any] = field(default_factory=list)

    @property
    def moves(self) -> bool:
        return self.method.moves

    @property
    def responds(self) -> bool:
        return self.method.responds

    @property
    def at_solution(self) -> bool:
        return self.method.at_solution

    def cost_of(self, size: int) -> mlopt.Cost:
        return self.method.cost_of(size)

    @property
    def cost(self) -> mlopt.Cost:
        return self.method.cost

    def check(self, name: str, optimizer: Any) -> None:
        self.method.check(name, optimizer)

    def solution(self, response: mlopt.Response) -> Any:
        self.responses.append(response)
        return self.method.solution(response)

    def pullback(self, response: mlopt.Response, cotangent: Any, wanted: Sequence[Any]) -> Any:
        if not any(r is response for r in self.responses):  # an optimum is not asked for its value
            self.responses.append(response)
        self.cotangents.append(cotangent)
        return self.method.pullback(response, cotangent, wanted)


# Methods.


@dataclass(frozen=True)
class MethodRow:
    """A method, the optimizer it looks ahead by, and how exact its docstring says it is."""

    name: str
    method: Callable[[], mlopt.AbstractHypergradient]
    optimizer: Callable[[list[Tensor]], torch.optim.Optimizer]
    tolerance: float
    graphs: tuple[str, ...] = ()  # those it claims; all, if none is named
    # what it solves, for the oracle: (method, problem, w, dF/dw) -> s, as a differentiable program
    formula: Callable[..., dict[Any, Tensor]] | None = None

    @property
    def formulas(self) -> dict[type, Callable[..., dict[Any, Tensor]]]:
        """The formula, by the type of the method that it states."""
        method = self.method()
        inner = method.method if isinstance(method, StopGradient) else method
        return {type(inner): self.formula} if self.formula else {}


def _sgd(**options: Any) -> Callable[[list[Tensor]], torch.optim.Optimizer]:
    return lambda parameters: warmed(SGD(parameters, **options))


def _adam(kind: type = Adam, **options: Any) -> Callable[[list[Tensor]], torch.optim.Optimizer]:
    return lambda parameters: warmed(kind(parameters, **options))


def warmed(optimizer: torch.optim.Optimizer, steps: int = 2) -> torch.optim.Optimizer:
    """An optimizer with a past: some steps with random gradients, and the parameters put back."""
    generator = torch.Generator().manual_seed(7)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    before = [p.detach().clone() for p in parameters]
    for _ in range(steps):
        for p in parameters:
            noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
            p.grad = noise.to(p.device, p.dtype)
        optimizer.step()
    with torch.no_grad():
        for p, value in zip(parameters, before, strict=True):
            p.copy_(value)
            p.grad = None
    return optimizer


_PLAIN = _sgd(lr=0.1)
_HEAVY = _sgd(lr=0.3, momentum=0.9, weight_decay=0.05)

METHODS = [
    MethodRow("frozen", lambda: Frozen(), _PLAIN, 1e-8),
    MethodRow("stop_gradient", lambda: StopGradient(OneStep(lr=0.5)), _PLAIN, 1e-8),
    MethodRow("stop_gradient_own", lambda: StopGradient(OneStep()), _HEAVY, 1e-8),
    MethodRow("one_step_lr", lambda: OneStep(lr=0.5), _HEAVY, 1e-8),
    MethodRow("one_step_lr_1", lambda: OneStep(lr=1.0, product=Exact()), _PLAIN, 1e-8),
    MethodRow("one_step_momentum", lambda: OneStep(), _HEAVY, 1e-8),
    MethodRow(
        "one_step_dampening", lambda: OneStep(), _sgd(lr=0.3, momentum=0.9, dampening=0.4), 1e-8
    ),
    MethodRow(
        "one_step_nesterov", lambda: OneStep(), _sgd(lr=0.2, momentum=0.8, nesterov=True), 1e-8
    ),
    MethodRow(
        "one_step_maximize", lambda: OneStep(), _sgd(lr=0.3, momentum=0.5, maximize=True), 1e-8
    ),
    MethodRow("one_step_adam", lambda: OneStep(), _adam(lr=0.1, weight_decay=0.05), 1e-8),
    MethodRow("one_step_adamw", lambda: OneStep(), _adam(AdamW, lr=0.1, weight_decay=0.1), 1e-8),
    MethodRow("one_step_central", lambda: OneStep(lr=0.5, product=Central(1e-3)), _PLAIN, 1e-4),
    MethodRow("own_central", lambda: OneStep(product=Central(1e-3)), _HEAVY, 1e-4),
    # the bias is O(radius); the order of convergence has tests of its own
    MethodRow("one_step_one_sided", lambda: OneStep(lr=0.5, product=OneSided(1e-6)), _PLAIN, 1e-4),
    # the lower problems of most graphs are neither solved nor convex: the law holds at any w where
    # H + damping is regular; damping makes it positive definite for the iterative solvers
    MethodRow(
        "implicit_dense", lambda: Implicit(Dense(), damping=0.7), _PLAIN, 1e-8, formula=optimum
    ),
    MethodRow(
        "implicit_cg", lambda: Implicit(CG(300, 1e-12), damping=30.0), _PLAIN, 1e-8, formula=optimum
    ),
    MethodRow(
        "implicit_neumann",
        lambda: Implicit(Neumann(400, 0.02), damping=30.0),
        _PLAIN,
        1e-8,
        formula=optimum,
    ),
    MethodRow(
        "implicit_cg_central",
        lambda: Implicit(CG(40, 1e-8), Central(1e-3), damping=30.0),
        _PLAIN,
        1e-4,
        formula=optimum,
    ),
    MethodRow(
        "implicit_solved",
        lambda: Implicit(CG(30, 1e-12)),
        _PLAIN,
        1e-8,
        ("hyperparameter",),
        optimum,
    ),
    MethodRow(
        "stop_implicit",
        lambda: StopGradient(Implicit(damping=30.0)),
        _PLAIN,
        1e-8,
        formula=optimum,
    ),
    MethodRow("sama_sgd", lambda: Sama(Exact()), _HEAVY, 1e-8, formula=whole_step),
    MethodRow(
        "sama_adam",
        lambda: Sama(Exact()),
        _adam(lr=0.1, weight_decay=0.05),
        1e-8,
        formula=whole_step,
    ),
    MethodRow(
        "sama_adamw", lambda: Sama(Central(1e-3)), _adam(AdamW, lr=0.1), 1e-4, formula=whole_step
    ),
]


# Graphs.


@dataclass
class GraphRow:
    """A graph of problems: all that the tests need of it."""

    nodes: list[Any]
    upper: Any
    lowers: list[Any]
    batches: dict[Any, Any] = field(default_factory=dict)

    def batch(self, node: Any) -> Any:
        return self.batches[node]


Optimizer = Callable[[list[Tensor]], torch.optim.Optimizer]
Method = Callable[[], mlopt.AbstractHypergradient]


def tensor(device: torch.device, seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    """Random numbers that are the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(device)


def parameter(device: torch.device, seed: int, *shape: int) -> nn.Parameter:
    return nn.Parameter(tensor(device, seed, *shape))


def module(module: nn.Module, device: torch.device, seed: int) -> nn.Module:
    """The module in float64 on the device, its parameters from the seed."""
    module.double()
    with torch.no_grad():
        for i, p in enumerate(module.parameters()):
            p.copy_(tensor(torch.device("cpu"), seed + 100 * i, *p.shape, scale=0.7))
    return module.to(device)


def bilevel_tensor(device: torch.device, method: Method, optimizer: Optimizer) -> GraphRow:
    """One lower problem over a tensor, cubic terms everywhere."""
    W = mlopt.Variable(parameter(device, 1, 4), "w")
    A = mlopt.Variable(parameter(device, 2, 3), "a")
    m = tensor(device, 3, 4, 3)

    @mlopt.problem(over=W, given=[A], optimizer=optimizer(W.parameters()), hypergrad=method())
    def lower(w, a):
        return (torch.tanh(w * (m @ a)) + 0.3 * w**3 * (m @ a**2)).sum() + (w**2).sum()

    @mlopt.problem(over=A, given=[W], optimizer=SGD(A.parameters(), lr=0.1))
    def upper(a, w):
        return (torch.sin(w) * (m @ a)).sum() + (a**2).sum()

    return GraphRow([lower, upper], upper, [lower])


def bilevel_module(device: torch.device, method: Method, optimizer: Optimizer) -> GraphRow:
    """Modules on both levels, one parameter tied, one frozen, one unused, one not optimized."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 1)
            self.twin = nn.Linear(4, 4)
            self.again = nn.Linear(4, 4)
            self.again.weight = self.twin.weight
            self.unused = nn.Parameter(torch.zeros(2))
            self.still = nn.Parameter(torch.zeros(4))

        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.tanh(self.first(x))
            hidden = torch.tanh(self.again(torch.tanh(self.twin(hidden)))) + self.still
            return self.last(hidden).squeeze(-1)

    net = module(Net(), device, 5)
    net.first.bias.requires_grad_(False)
    W = mlopt.Variable(net, "w")
    A = mlopt.Variable(module(nn.Sequential(nn.Linear(3, 3), nn.Tanh()), device, 6), "a")
    train = [(tensor(device, 8, 5, 3), tensor(device, 9, 5))]
    valid = [(tensor(device, 10, 5, 3), tensor(device, 11, 5))]
    held = [p for p in net.parameters() if p is not net.still]

    @mlopt.problem(over=W, given=[A], data=train, optimizer=optimizer(held), hypergrad=method())
    def lower(w, a, batch):
        x, y = batch
        return ((w(a(x)) - y) ** 2).mean(), {"largest": x.max()}

    @mlopt.problem(over=A, given=[W], data=valid, optimizer=SGD(A.parameters(), lr=0.1))
    def upper(a, w, batch):
        x, y = batch
        return softplus(w(a(x)) * y).mean()

    return GraphRow([lower, upper], upper, [lower], {lower: train[0], upper: valid[0]})


def hyperparameter(device: torch.device, method: Method, optimizer: Optimizer) -> GraphRow:
    """An upper objective that does not contain its own variable: everything comes through."""
    W = mlopt.Variable(parameter(device, 21, 4), "w")
    R = mlopt.Variable(parameter(device, 22, 4), "r")
    target = tensor(device, 23, 4)

    @mlopt.problem(over=W, given=[R], optimizer=optimizer(W.parameters()), hypergrad=method())
    def ridge(w, r):
        return torch.cosh(w - target).sum() + (softplus(r) * w**2).sum() / 2

    @mlopt.problem(over=R, given=[W], optimizer=SGD(R.parameters(), lr=0.1))
    def validation(r, w):
        return ((w - 2 * target) ** 2).sum()

    return GraphRow([ridge, validation], validation, [ridge])


def signals(device: torch.device, method: Method, optimizer: Optimizer) -> GraphRow:
    """Two teachers, chained signals of every kind, a student over a list of variables."""
    A = mlopt.Variable(parameter(device, 31, 3), "a")
    V = [mlopt.Variable(parameter(device, 32 + k, 3), f"v{k}") for k in range(2)]
    W = [mlopt.Variable(parameter(device, 35 + k, 3), f"w{k}") for k in range(2)]
    mix = tensor(device, 38, 3, 3)

    def teacher(k: int) -> Any:
        @mlopt.problem(
            over=V[k],
            given=[A],
            optimizer=optimizer(V[k].parameters()),
            hypergrad=method(),
            name=f"teacher{k}",
        )
        def fit(v, a):
            return torch.tanh(mix @ v * (k + 1) * a).sum() + 0.3 * (v**4).sum() + (v * a**2).sum()

        return fit

    teachers = [teacher(k) for k in range(2)]

    @mlopt.signal(given=[V, A])
    def pair(v, a):
        return torch.sin(v[0] * a), v[1] * v[0]

    @mlopt.signal(given=[pair, V[1]])
    def table(pair, v1):
        return {"weights": torch.softmax(pair[0] + v1, 0), "order": torch.tensor([2, 0, 1])}

    students = [p for w in W for p in w.parameters()]

    @mlopt.problem(
        over=W, given=[A, [table, pair]], optimizer=optimizer(students), hypergrad=method()
    )
    def student(w, a, taught):
        table, pair = taught
        ordered = table["weights"][table["order"].to(a.device)]
        return (ordered * torch.cosh(w[0] - a)).sum() + torch.sin(w[1] * w[0] * pair[1]).sum()

    @mlopt.problem(over=A, given=[W, mlopt.stop(pair)], optimizer=SGD(A.parameters(), lr=0.1))
    def upper(a, w, pair):
        return (a * w[0] * pair[0]).sum() + (torch.tanh(w[1]) * a**2).sum()

    nodes = [*teachers, pair, table, student, upper]
    return GraphRow(nodes, upper, [*teachers, student])


def ladder(device: torch.device, method: Method, optimizer: Optimizer, depth: int = 3) -> GraphRow:
    """Two problems a level, each reading both of the level below: 2^depth paths, 2 depth nodes."""
    A = mlopt.Variable(parameter(device, 41, 3), "a")
    mix = tensor(device, 42, 3, 3, scale=0.5)
    below: list[Any] = []
    lowers: list[Any] = []
    for level in range(depth):
        row = [
            mlopt.Variable(parameter(device, 43 + 2 * level + side, 3), f"w{level}{side}")
            for side in range(2)
        ]
        for side in range(2):
            lowers.append(_rung(row[side], A, below, mix * (1 + side), method(), optimizer))
        below = row

    @mlopt.problem(over=A, given=[below], optimizer=SGD(A.parameters(), lr=0.1))
    def top(a, w):
        return (torch.sin(w[0]) * w[1] * a).sum() + (a**2).sum()

    return GraphRow([*lowers, top], top, lowers)


def _rung(over: Any, A: Any, below: list[Any], mix: Tensor, method: Any, optimizer: Any) -> Any:
    given = [A, below] if below else [A]

    @mlopt.problem(
        over=over,
        given=given,
        optimizer=optimizer(over.parameters()),
        hypergrad=method,
        name=f"fit_{over.name}",
    )
    def fit(w, a, lower=()):
        x = a + sum(torch.sin(u) for u in lower)
        return torch.tanh(mix @ w * x).sum() + torch.cosh(w - x).sum()

    return fit


# LFM-CW (numbers of its equations in comments), on smooth networks.


class Classifier(nn.Module):
    """A hidden layer whose units the architecture scales."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor, a: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x)) * a)


class Discriminator(nn.Module):
    """The architecture as trunk, and a projection on the class."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 1)
        self.embedding = nn.Parameter(torch.zeros(3, 4))

    def forward(self, x: Tensor, y: Tensor, a: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(x)) * a
        return self.last(hidden).squeeze(-1) + (hidden * self.embedding[y]).sum(-1)


class Generator(nn.Module):
    """A picture from a class and noise that is drawn inside."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, y: Tensor) -> Tensor:
        noise = torch.randn(len(y), 2, dtype=torch.float64, device=y.device)
        return torch.tanh(self.layer(torch.cat([one_hot(y, 3).double(), noise], -1)))


def per_class(losses: Tensor, y: Tensor) -> Tensor:
    """The mean of each class."""
    mask = one_hot(y, 3).to(losses)
    return (mask * losses[:, None]).sum(0) / mask.sum(0)


@dataclass
class LfmCw(GraphRow):
    """LFM-CW, with its variables and problems by name."""

    W1: Any = None
    W2: Any = None
    G: Any = None
    H: Any = None
    A: Any = None
    stage1: Any = None
    discriminator: Any = None
    generator: Any = None
    class_losses: Any = None
    synthetic: Any = None
    stage2: Any = None


def lfm_cw(
    device: torch.device,
    method: Method,
    optimizer: Optimizer = lambda parameters: SGD(parameters, lr=0.1),
    *,
    stage1_method: mlopt.AbstractHypergradient | None = None,
    generator_method: mlopt.AbstractHypergradient | None = None,
    stage2_method: mlopt.AbstractHypergradient | None = None,
    stop_losses: bool = False,
    stop_synthetic: bool = False,
) -> LfmCw:
    """LFM-CW's seven nodes; each method and each edge into stage II can be chosen alone."""
    W1 = mlopt.Variable(module(Classifier(), device, 51), "w1")
    W2 = mlopt.Variable(module(Classifier(), device, 52), "w2")
    G = mlopt.Variable(module(Generator(), device, 53), "g")
    H = mlopt.Variable(module(Discriminator(), device, 54), "h")
    A = mlopt.Variable(parameter(device, 55, 4), "a")
    labels = torch.tensor([0, 1, 2, 2, 1, 0, 1], device=device)
    train = [(tensor(device, 56, 7, 3), labels)]
    valid = [(tensor(device, 57, 7, 3), labels.flip(0))]

    @mlopt.problem(  # Eq. 1
        over=W1,
        given=[A],
        data=train,
        optimizer=optimizer(W1.parameters()),
        hypergrad=stage1_method or method(),
    )
    def stage1(w1, a, batch):
        x, y = batch
        return cross_entropy(w1(x, a), y)

    @mlopt.problem(  # Eq. 2, over H
        over=H, given=[G, A], data=train, optimizer=SGD(H.parameters(), lr=0.1), hypergrad=Frozen()
    )
    def discriminator(h, g, a, batch):
        x, y = batch
        return softplus(-h(x, y, a)).mean() + softplus(h(g(y), y, a)).mean()

    @mlopt.problem(  # Eq. 2, over G
        over=G,
        given=[H, A],
        data=train,
        optimizer=optimizer(G.parameters()),
        hypergrad=generator_method or method(),
    )
    def generator(g, h, a, batch):
        _, y = batch
        return softplus(-h(g(y), y, a)).mean()

    @mlopt.signal(given=[W1, A], data=valid)
    def class_losses(w1, a, batch):
        x, y = batch
        return per_class(cross_entropy(w1(x, a), y, reduction="none"), y)

    @mlopt.signal(given=[G], data=train)
    def synthetic(g, batch):
        _, y = batch
        return g(y)

    weights = mlopt.stop(class_losses) if stop_losses else class_losses
    fake = mlopt.stop(synthetic) if stop_synthetic else synthetic

    @mlopt.problem(  # Eq. 3
        over=W2,
        given=[A, weights, fake],
        data=train,
        optimizer=optimizer(W2.parameters()),
        hypergrad=stage2_method or method(),
    )
    def stage2(w2, a, class_losses, synthetic, batch):
        x, y = batch
        mistakes = cross_entropy(w2(synthetic, a), y, reduction="none")
        return cross_entropy(w2(x, a), y) + (class_losses[y] * mistakes).mean()

    @mlopt.problem(  # Eq. 4
        over=A, given=[W2], data=valid, optimizer=SGD(A.parameters(), lr=0.1)
    )
    def stage3(a, w2, batch):
        x, y = batch
        return cross_entropy(w2(x, a), y)

    nodes = [stage1, discriminator, generator, class_losses, synthetic, stage2, stage3]
    batches = {n: valid[0] if n in (class_losses, stage3) else train[0] for n in nodes}
    return LfmCw(
        nodes,
        stage3,
        [stage1, generator, stage2],
        batches,
        W1=W1,
        W2=W2,
        G=G,
        H=H,
        A=A,
        stage1=stage1,
        discriminator=discriminator,
        generator=generator,
        class_losses=class_losses,
        synthetic=synthetic,
        stage2=stage2,
    )


GRAPHS: dict[str, Callable[[torch.device, Method, Optimizer], GraphRow]] = {
    "bilevel_tensor": bilevel_tensor,
    "bilevel_module": bilevel_module,
    "hyperparameter": hyperparameter,
    "signals": signals,
    "ladder": ladder,
    "lfm_cw": lfm_cw,
}
