"""Bad input: refused before anything is trained, by a message that names node and remedy."""

from __future__ import annotations

import warnings

import pytest
import torch
from small import F64, assert_same, batches, bilevel, mlp, sgd, state_of
from torch import nn
from torch.nn.functional import mse_loss

import mlopt
from mlopt import DataError, GraphError, SettingsError


def tensor(size: int = 3) -> nn.Parameter:
    return nn.Parameter(torch.linspace(0.5, 1.0, size, dtype=F64))


W = mlopt.Variable(tensor(), "w")
V = mlopt.Variable(tensor(), "v")
A = mlopt.Variable(tensor(), "a")


def over_w(**options):
    """A lower problem over W that reads A."""
    options.setdefault("optimizer", sgd(W))
    return mlopt.problem(over=W, given=[A], **options)(fit)


def fit(w, a):
    return (w * a - 1).square().sum()


def tune(a, w):
    return (w - a).square().sum()


def over_a(**options):
    return mlopt.problem(over=A, given=[W], optimizer=sgd(A), **options)(tune)


def refused_at_the_first_step(problems, *, error=GraphError, match, **options):
    """The engine is made; its first step, and a hypergradient, raise; nothing has moved."""
    engine = mlopt.Engine(problems, hypergrad=mlopt.Frozen(), **options)
    before = state_of(engine)
    for attempt in (
        engine.step,
        lambda: engine.hypergradient(engine.graph.problems[-1]),
        lambda: engine.run(steps=1, progress=False),
    ):
        with pytest.raises(error, match=match):
            attempt()
        assert_same(before, state_of(engine))


# What the list holds.


def test_signal_that_is_not_listed():
    @mlopt.signal(given=[W])
    def size(w):
        return w.square().sum()

    @mlopt.problem(over=A, given=[size])
    def top(a, size):
        return (a - size).square().sum()

    with pytest.raises(GraphError, match=r"top reads the signal size.*not in the list; list it"):
        mlopt.Engine([over_w(), top], hypergrad=mlopt.Frozen())


def test_signal_that_is_listed_above_its_reader():
    @mlopt.signal(given=[W])
    def size(w):
        return w.square().sum()

    @mlopt.problem(over=A, given=[size])
    def top(a, size):
        return (a - size).square().sum()

    with pytest.raises(GraphError, match=r"top reads the signal size.*listed above it"):
        mlopt.Engine([over_w(), top, size], hypergrad=mlopt.Frozen())


def test_variable_without_problem():
    with pytest.raises(GraphError, match=r"fit reads a, and no problem.*List the problem over it"):
        mlopt.Engine([over_w()])


def test_a_problem_read_as_if_it_were_a_variable():
    lower = over_w()

    @mlopt.problem(over=A, given=[lower])
    def top(a, fit):
        return (a - fit).sum()

    with pytest.raises(GraphError, match="top reads the problem fit; read its variable"):
        mlopt.Engine([lower, top], hypergrad=mlopt.Frozen())


def test_problem_listed_twice():
    lower, upper = over_w(), over_a()
    with pytest.raises(GraphError, match="fit is listed twice"):
        mlopt.Engine([lower, upper, lower], hypergrad=mlopt.Frozen())


def test_undecorated_function_and_empty_list():
    with pytest.raises(GraphError, match="holds a function.*not decorated"):
        mlopt.Engine([fit])
    with pytest.raises(GraphError, match="no problem"):
        mlopt.Engine([])


def test_two_problems_over_one_variable():
    @mlopt.problem(over=W)
    def also(w):
        return w.sum()

    with pytest.raises(GraphError, match=r"w is minimised by fit and by also.*Sum the objectives"):
        mlopt.Engine([over_w(), also, over_a()], hypergrad=mlopt.Frozen())


def test_one_parameter_in_two_variables():
    shared = nn.Linear(3, 1)
    one = mlopt.Variable(shared, "one")
    two = mlopt.Variable(nn.Sequential(nn.Tanh(), shared), "two")

    @mlopt.problem(over=one)
    def first(one):
        return one.weight.sum()

    @mlopt.problem(over=two)
    def second(two):
        return two[1].weight.sum()

    with pytest.raises(GraphError, match=r"two\.1\.weight is also one\.weight.*belongs to one"):
        mlopt.Engine([first, second])


def test_one_optimizer_for_two_problems():
    both = torch.optim.SGD([{"params": W.parameters()}, {"params": A.parameters()}], lr=0.1)
    with pytest.raises(GraphError, match="fit: its optimizer holds a tensor of shape"):
        over_w(optimizer=both)
    joint = [W, A]
    first = mlopt.problem(over=joint, optimizer=both)(lambda wa: (wa[0] * wa[1]).sum())
    assert first.optimizer is both  # one problem over both may have it
    # a late addition gets past the first check, not past the second
    optimizer = sgd(W)
    lower = over_w(optimizer=optimizer)
    other = mlopt.problem(over=A, given=[W])(tune)
    other.optimizer = optimizer
    with pytest.raises(GraphError, match="share one optimizer; give each its own"):
        mlopt.Engine([lower, other], hypergrad=mlopt.Frozen())


# Optimizers, methods and options.


def test_optimizer_over_other_tensors():
    with pytest.raises(
        GraphError, match=r"fit: its optimizer holds a tensor.*not one of w\. Build it over"
    ):
        over_w(optimizer=sgd(V))


def test_lbfgs():
    with pytest.raises(GraphError, match="fit: LBFGS evaluates its objective itself.*another"):
        over_w(optimizer=torch.optim.LBFGS(W.parameters()))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"optimizer": torch.optim.SGD}, "optimizer= takes a torch.optim.Optimizer"),
        ({"hypergrad": "darts"}, r"hypergrad= takes a method such as OneStep\(\).*'darts'"),
        ({"hypergrad": mlopt.OneStep}, "hypergrad= takes a method"),
        ({"clip": 0.0}, "clip=0.0 must be a positive norm"),
        ({"clip": float("nan")}, "clip=nan must be a positive norm"),
        ({"every": 0}, "every=0 must be a whole number of at least 1"),
        ({"repeat": 1.5}, "repeat=1.5 must be a whole number"),
        ({"start": -1}, "start=-1 must be a whole number of at least 0"),
        ({"optimizer": None, "scheduler": object()}, "a scheduler without an optimizer"),
    ],
)
def test_bad_option(options, match):
    with pytest.raises(GraphError, match=f"fit: .*{match}"):
        over_w(**options)


def test_mutual_read_without_a_method_names_the_choices():
    with pytest.raises(GraphError) as raised:
        mlopt.Engine([over_w(), over_a()])
    message = str(raised.value)
    for part in ("tune reads w", "depends on a", "OneStep(", "Frozen()", "Engine(", "hypergrad="):
        assert part in message
    mlopt.Engine([over_w(hypergrad=mlopt.Frozen()), over_a()])
    mlopt.Engine([over_w(), over_a()], hypergrad=mlopt.OneStep())


def test_response_through_a_signal_without_a_method():
    """Nobody reads w directly: the path tune -> size -> fit still needs a method."""

    @mlopt.signal(given=[W])
    def size(w):
        return w.square().sum()

    @mlopt.problem(over=A, given=[size])
    def top(a, size):
        return (a - size).square().sum()

    with pytest.raises(GraphError, match=r"top reads w \(or what depends on it\).*through fit"):
        mlopt.Engine([over_w(), size, top])


@pytest.mark.parametrize("kind", [torch.optim.Adagrad, torch.optim.RMSprop, torch.optim.NAdam])
def test_unknown_optimizer_is_refused_only_where_its_look_ahead_is_needed(kind):
    """D15: never another algorithm in silence."""
    optimizer = kind(W.parameters(), lr=0.1)
    with pytest.raises(
        GraphError, match=rf"fit: the look-ahead of {kind.__name__} is not known.*OneStep\(lr=...\)"
    ):
        mlopt.Engine([over_w(optimizer=optimizer, hypergrad=mlopt.OneStep()), over_a()])
    mlopt.Engine([over_w(optimizer=optimizer, hypergrad=mlopt.OneStep(lr=0.1)), over_a()])
    mlopt.Engine([over_w(optimizer=optimizer, hypergrad=mlopt.Frozen()), over_a()])
    alone = mlopt.problem(over=W, optimizer=optimizer)(lambda w: w.square().sum())
    mlopt.Engine([alone], hypergrad=mlopt.OneStep())  # nobody reads it


def test_a_subclass_of_a_known_optimizer_is_not_that_optimizer():
    class Mine(torch.optim.SGD):
        pass

    lower = over_w(optimizer=Mine(W.parameters(), lr=0.1), hypergrad=mlopt.OneStep())
    with pytest.raises(GraphError, match="the look-ahead of Mine is not known"):
        mlopt.Engine([lower, over_a()])


def test_look_ahead_without_an_optimizer():
    with pytest.raises(GraphError, match=r"fit: OneStep\(\) looks ahead.*OneStep\(lr=...\)"):
        mlopt.Engine([over_w(optimizer=None, hypergrad=mlopt.OneStep()), over_a()])


def test_repeat_under_a_method_that_looks_ahead():
    lower = over_w(hypergrad=mlopt.OneStep(), repeat=2)
    with pytest.raises(GraphError, match=r"tune reads the solution of fit.*2 updates.*repeat=1"):
        mlopt.Engine([lower, over_a()])


def test_sequential_with_a_method_that_looks_ahead():
    with pytest.raises(GraphError, match=r"Sequential\(\): tune reads the solution of fit.*Simul"):
        mlopt.Engine([over_w(), over_a()], hypergrad=mlopt.OneStep(), schedule=mlopt.Sequential())


def test_alternate_with_missing_or_unknown_problems():
    lower, upper = over_w(hypergrad=mlopt.Frozen()), over_a()

    def engine(*turns):
        return mlopt.Engine([lower, upper], schedule=mlopt.Alternate(*turns))

    with pytest.raises(GraphError, match="tune has no turn and would never be updated"):
        engine((lower, 3))
    other = mlopt.problem(over=V, optimizer=sgd(V))(lambda v: v.sum())
    with pytest.raises(GraphError, match="<lambda> is not in the engine's list"):
        engine((lower, 3), (upper, 1), (other, 1))
    many = over_w(hypergrad=mlopt.Frozen(), repeat=2)
    with pytest.raises(GraphError, match="fit has repeat=2; give it more rounds"):
        mlopt.Engine([many, upper], schedule=mlopt.Alternate((many, 3), (upper, 1)))


@pytest.mark.parametrize(
    "turns", [(), (("fit", 2),), ((None, 1),), (3,), ((lambda: 0, 0),), ((lambda: 0, 1.5),)]
)
def test_alternate_with_a_bad_turn(turns):
    with pytest.raises(GraphError, match="Alternate"):
        mlopt.Alternate(*turns)


@pytest.mark.parametrize(
    "make",
    [
        lambda: mlopt.OneStep(lr=-0.1),
        lambda: mlopt.OneStep(lr=0.0),
        lambda: mlopt.OneStep(product="central"),
        lambda: mlopt.Central(radius=0.0),
        lambda: mlopt.OneSided(radius=-1.0),
        lambda: mlopt.StopGradient("one step"),
    ],
)
def test_bad_setting_of_a_method(make):
    with pytest.raises(GraphError):
        make()


def test_engine_takes_objects_not_strings():
    with pytest.raises(GraphError, match=r"hypergrad= takes a method such as OneStep\(\)"):
        mlopt.Engine([over_w(), over_a()], hypergrad="darts")
    with pytest.raises(GraphError, match=r"schedule= takes an object such as Sequential\(\)"):
        mlopt.Engine([over_w(), over_a()], hypergrad=mlopt.Frozen(), schedule="sequential")


# Nesting.


def chain(middle_method):
    """Top differentiates through a nested level: bottom and middle read each other."""

    @mlopt.problem(over=W, given=[V], optimizer=sgd(W), hypergrad=mlopt.OneStep())
    def bottom(w, v):
        return (w - v).square().sum()

    @mlopt.problem(over=V, given=[W, A], optimizer=sgd(V), hypergrad=middle_method)
    def middle(v, w, a):
        return (w * v - a).square().sum()

    @mlopt.problem(over=A, given=[V], optimizer=sgd(A))
    def top(a, v):
        return (a - v).square().sum()

    return [bottom, middle, top]


def test_a_nested_graph_needs_a_method_at_every_level():
    mlopt.Engine(chain(mlopt.OneStep()))
    mlopt.Engine(chain(mlopt.Frozen()))
    with pytest.raises(GraphError, match="Say how gradients pass through middle"):
        mlopt.Engine(chain(None))


def test_a_cycle_of_players_runs_and_moves_both():
    """D24: two players that read each other are a graph, never a recursion and never a no-op."""
    w, v = mlopt.Variable(tensor(), "w"), mlopt.Variable(tensor(), "v")

    @mlopt.problem(over=w, given=[v], optimizer=sgd(w), hypergrad=mlopt.Frozen())
    def first(w, v):
        return (w * v).sum() + w.square().sum()

    @mlopt.problem(over=v, given=[w], optimizer=sgd(v))
    def second(v, w):
        return -(w * v).sum() + v.square().sum()

    engine = mlopt.Engine([first, second])
    before = state_of(engine)
    engine.step()
    for name in ("w values", "v values"):
        assert not torch.equal(before[name][""], state_of(engine)[name][""])


# Signatures.


@pytest.mark.parametrize(
    ("fn", "options", "match"),
    [
        (lambda w: w.sum(), {"given": [A]}, r"will be called with 2 arguments \(w, a\)"),
        (lambda w, a, b: w.sum(), {"given": [A]}, r"with 2 arguments \(w, a\)"),
        (lambda w, batch: w.sum(), {}, r"with 1 arguments \(w\).*must match"),
        (lambda w: w.sum(), {"data": batches(1)}, r"with 2 arguments \(w, batch\)"),
    ],
)
def test_signature_mismatch(fn, options, match):
    with pytest.raises(GraphError, match=rf"<lambda>\(.*{match}"):
        mlopt.problem(over=W, **options)(fn)


def test_swapped_arguments_warn_at_the_users_line():
    with pytest.warns(UserWarning, match="'v' receives a, while v goes to 'a'.*swapped") as caught:

        @mlopt.problem(over=W, given=[A, V])
        def wrong(w, v, a):
            return w.sum()

    assert caught[0].filename == __file__

    with warnings.catch_warnings():
        warnings.simplefilter("error")

        @mlopt.problem(over=W, given=[A, V])
        def fine(w, alpha, anything):
            return w.sum()


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (A, r"given= takes a list, e.g. given=\[a\]"),
        ([A, A], "reads a twice"),
        ([torch.zeros(3)], "cannot read a Tensor; over= and given= take variables"),
        ([[]], "an empty list"),
    ],
)
def test_bad_given(given, match):
    with pytest.raises(GraphError, match=match):
        mlopt.problem(over=W, given=given)(lambda w, a, b=None: w.sum())


@pytest.mark.parametrize("over", [torch.zeros(3), nn.Linear(1, 1), mlopt.stop(W), []])
def test_bad_over(over):
    with pytest.raises(GraphError):
        mlopt.problem(over=over)(lambda w: w.sum())


@pytest.mark.parametrize(
    ("value", "name"),
    [(torch.zeros(3), "w"), (tensor() * 2, "w"), (3.0, "w"), (tensor(), ""), (tensor(), None)],
)
def test_bad_variable(value, name):
    with pytest.raises(GraphError, match="Variable"):
        mlopt.Variable(value, name)


# What the functions read, against what they declare.

NET = mlopt.Variable(mlp(), "net")
HEAD = mlopt.Variable(mlp(2), "head")
DATA = batches(3)


def head(fn, given=()):
    decorate = mlopt.problem(
        over=HEAD, given=list(given), data=DATA, optimizer=sgd(HEAD), name="top"
    )
    return decorate(fn)


@mlopt.problem(over=NET, data=DATA, optimizer=sgd(NET))
def base(net, batch):
    x, y = batch
    return mse_loss(net(x), y)


def no_grad_read(head, batch):
    with torch.no_grad():
        target = NET.value(batch[0])
    return mse_loss(head(batch[0]), target)


HIDDEN = {
    "call": lambda head, batch: mse_loss(head(batch[0]), NET.value(batch[0])),
    "variable call": lambda head, batch: mse_loss(head(batch[0]), NET(batch[0])),
    "attribute": lambda head, batch: head(batch[0]).mean() * NET.value[0].weight.sum(),
    "no_grad": no_grad_read,
    "detach": lambda head, batch: head(batch[0]).mean() * NET.value[0].weight.detach().sum(),
    "closure": lambda head, batch, p=NET.value[2].bias: head(batch[0]).mean() * p.sum(),
    "item": lambda head, batch: head(batch[0]).mean() * NET.value[2].bias.item(),
}


@pytest.mark.parametrize("how", HIDDEN)
def test_hidden_read(how):
    top = mlopt.problem(over=HEAD, data=DATA, optimizer=sgd(HEAD), name="top")(HIDDEN[how])
    refused_at_the_first_step([base, top], match=r"top reads net without being given.*Add net to")


def test_hidden_read_by_a_lower_problem_and_by_a_signal():
    low = mlopt.problem(over=NET, data=DATA, optimizer=sgd(NET), name="low")(
        lambda net, batch: mse_loss(net(batch[0]), HEAD.value(batch[0]))
    )
    top = head(lambda head, batch: head(batch[0]).mean())
    refused_at_the_first_step([low, top], match="low reads head without being given it")

    note = mlopt.signal(given=[HEAD], name="note")(
        lambda head: HEAD.value[0].weight.sum() * NET.value[2].bias
    )
    reader = head(lambda head, note, batch: head(batch[0]).mean() * note.sum(), [note])
    # the signal goes past its argument as well: for a module the argument is the same object
    refused_at_the_first_step([base, note, reader], match="note reads net without being given it")


def test_a_tensor_used_past_its_argument():
    past = mlopt.problem(over=W, optimizer=sgd(W), name="past")(lambda w: W.value.square().sum())
    refused_at_the_first_step([past], match="past uses w's own tensor past its argument")


def test_given_that_is_never_touched():
    top = head(lambda head, net, batch: head(batch[0]).mean(), [NET])
    refused_at_the_first_step([base, top], match="top is given net and never uses it.*Remove")

    @mlopt.signal(given=[NET])
    def size(net):
        return net[0].weight.square().sum()

    deaf = head(lambda head, size, batch: head(batch[0]).mean(), [size])
    refused_at_the_first_step([base, size, deaf], match="top is given size and never uses it")


def test_reads_without_gradient_are_legal():
    def detached(head, net, batch):
        with torch.no_grad():
            target = net(batch[0])
        return mse_loss(head(batch[0]), target)

    mlopt.Engine([base, head(detached, [NET])]).step()


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (lambda w: None, "returned NoneType; an objective returns a scalar"),
        (lambda w: 3.0, "returned float"),
        (lambda w: w.square(), r"returned a tensor of shape \(3,\).*\.mean\(\)"),
        (lambda w: (w.sum(), 3.0), r"returned \(scalar, float\); metrics are a dict"),
        (lambda w: (w.sum(), {}, {}), "returned tuple"),
        (lambda w: w.detach().sum(), "does not depend on w, which it is minimised over"),
        (lambda w: torch.zeros(()), "never uses w, which it is minimised over"),
    ],
)
def test_bad_value_of_an_objective(value, match):
    refused_at_the_first_step(
        [mlopt.problem(over=W, optimizer=sgd(W), name="bad")(value)], match=f"bad.*{match}"
    )


@pytest.mark.parametrize("name", ["loss", "gradient_norm"])
def test_reserved_names_of_metrics(name):
    bad = mlopt.problem(over=W, data=DATA, optimizer=sgd(W), name="bad")(
        lambda w, batch: (w.sum(), {name: 1.0})
    )
    refused_at_the_first_step([bad], match=f"bad.*{name!r}")


@pytest.mark.parametrize(
    "value", [None, 1.0, (), {}, [1.0], {"x": None}, {"x": {"y": torch.zeros(1)}}]
)
def test_bad_value_of_a_signal(value):
    @mlopt.signal(given=[NET])
    def bad(net):
        net[0].weight.sum()
        return value

    reader = head(lambda head, bad, batch: head(batch[0]).mean(), [bad])
    refused_at_the_first_step([base, bad, reader], match="signal bad returned.*return a tensor")


def test_state_of_a_signal_is_a_module():
    with pytest.raises(GraphError, match="mean: state= takes a module"):
        mlopt.signal(given=[NET], state=torch.zeros(3), name="mean")(lambda net: net[0].weight)


def test_hypergradient_of_a_stranger():
    engine = mlopt.Engine([base])
    with pytest.raises(GraphError, match="not a problem of this engine"):
        engine.hypergradient(over_w())


def test_nothing_to_step():
    engine = mlopt.Engine([mlopt.problem(over=W)(lambda w: w.sum())])
    with pytest.raises(GraphError, match="no problem has an optimizer"):
        engine.step()


# Data.


def test_empty_loader():
    with pytest.raises(DataError, match=r"DataLoader over TensorDataset has no batches.*drop_last"):
        mlopt.Stream(
            torch.utils.data.DataLoader(
                torch.utils.data.TensorDataset(torch.zeros(3)), batch_size=4, drop_last=True
            )
        )
    with pytest.raises(DataError, match="list has no batches"):
        mlopt.problem(over=W, data=[])(lambda w, batch: w.sum())


def test_loader_that_turns_out_empty():
    class Nothing(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(())

    loader = torch.utils.data.DataLoader(Nothing())
    nothing = mlopt.problem(over=W, data=loader, optimizer=sgd(W))(lambda w, batch: w.sum())
    refused_at_the_first_step([nothing], error=DataError, match="gave no batch in a whole pass")


@pytest.mark.parametrize("data", [iter(batches(2)), (b for b in batches(2)), map(abs, [1])])
def test_iterator_as_loader(data):
    with pytest.raises(DataError, match="an iterator.*give the loader itself"):
        mlopt.problem(over=W, data=data)(lambda w, batch: w.sum())


def test_data_that_is_no_loader():
    with pytest.raises(DataError, match="takes a loader or a Stream, got int"):
        mlopt.problem(over=W, data=3)(lambda w, batch: w.sum())


# Runs.


def test_run_settings():
    case = bilevel()
    engine = case.engine()
    for options in ({}, {"steps": 1, "epochs": 1}):
        with pytest.raises(SettingsError, match="give either steps= or epochs="):
            engine.run(**options, progress=False)
    with pytest.raises(SettingsError, match="epoch= names a stream that no problem"):
        engine.run(epochs=1, epoch=batches(2), progress=False)
    with pytest.raises(SettingsError, match="epoch= names a stream that no problem"):
        engine.run(epochs=1, epoch=mlopt.Stream(case.train), progress=False)
    assert engine.steps == 0
    engine.run(epochs=1, progress=False)  # what was refused has left no trace
    assert engine.steps == 5


def test_epochs_without_data():
    alone = mlopt.problem(over=W, optimizer=sgd(W))(lambda w: w.square().sum())
    with pytest.raises(SettingsError, match="epochs= needs data"):
        mlopt.Engine([alone]).run(epochs=1, progress=False)
    late = mlopt.problem(over=W, optimizer=sgd(W), start=2, name="late")(lambda w: w.square().sum())
    with pytest.raises(GraphError, match="late: start=2 counts epochs"):
        mlopt.Engine([late])
    waits = mlopt.problem(over=W, data=DATA, optimizer=sgd(W), start=1, name="waits")(
        lambda w, batch: w.square().sum()
    )
    with pytest.raises(GraphError, match="waits: start=1 counts epochs.*begins at once"):
        mlopt.Engine([waits])  # would wait for itself
