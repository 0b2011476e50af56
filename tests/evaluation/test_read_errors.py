"""What functions read and return, against what they declare: refused at the first step."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from bad_input import W, refused_at_the_first_step
from small import batches, mlp, sgd
from torch.nn.functional import mse_loss

import mlopt
from mlopt import GraphError

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


def elsewhere(compute):
    """What another thread computes, which torch's modes do not watch."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(compute).result().sum()


def no_grad_read(head, batch):
    with torch.no_grad():
        target = NET.value(batch[0])
    return mse_loss(head(batch[0]), target)


def no_grad_read_in_a_list(head, batch):
    with torch.no_grad():
        joined = torch.cat([NET.value[2].bias, batch[1][0]])
    return head(batch[0]).mean() * joined.sum()


HIDDEN = {
    "call": lambda head, batch: mse_loss(head(batch[0]), NET.value(batch[0])),
    "variable call": lambda head, batch: mse_loss(head(batch[0]), NET(batch[0])),
    "attribute": lambda head, batch: head(batch[0]).mean() * NET.value[0].weight.sum(),
    "no_grad": no_grad_read,
    "detach": lambda head, batch: head(batch[0]).mean() * NET.value[0].weight.detach().sum(),
    "closure": lambda head, batch, p=NET.value[2].bias: head(batch[0]).mean() * p.sum(),
    "item": lambda head, batch: head(batch[0]).mean() * NET.value[2].bias.item(),
    "in a list": no_grad_read_in_a_list,
    "tolist": lambda head, batch: head(batch[0]).mean() * sum(NET.value[2].bias.tolist()),
    "another thread": lambda head, batch: (
        head(batch[0]).mean() * elsewhere(NET.value[2].bias.square)
    ),
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


def test_what_is_used_in_other_threads_is_used():
    engine = mlopt.Engine(
        [base, head(lambda head, net, batch: elsewhere(lambda: head(batch[0]) - net(batch[0])),
                    [NET])]
    )  # fmt: skip
    engine.step()


def test_a_read_that_begins_later_is_declared_with_weight_zero():
    """What the error advises is right: it is read, and counts from when its weight does."""
    weight = [None]

    def top(head, net, batch):
        loss = head(batch[0]).square().mean()
        return loss if weight[0] is None else loss + weight[0] * net(batch[0]).square().mean()

    refused_at_the_first_step([base, head(top, [NET])], match=r"never uses it.*0 \* \.\.\.")
    weight[0] = 0.0
    upper = head(top, [NET])
    engine = mlopt.Engine([base, upper])
    engine.step()
    engine.hypergradient(upper)
    weight[0] = 1.0
    engine.step()


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
        (lambda w: (1 + 1j) * w.sum(), r"returned a complex number.*\.real"),
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


def test_get_parameter_is_refused_with_what_to_write():
    @mlopt.problem(over=NET, data=DATA, optimizer=sgd(NET))
    def named(net, batch):
        return mse_loss(net(batch[0]), batch[1]) + net.get_parameter("0.weight").sum()

    with pytest.raises(GraphError, match=r"named: .*nn\.Parameter.*w\[0\]\.weight instead of"):
        mlopt.Engine([named]).step()
