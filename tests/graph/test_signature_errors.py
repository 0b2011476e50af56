"""Signatures, `given=` and `over=` that do not fit: refused, with the remedy."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from bad_input import A, V, W, tensor
from small import batches
from torch import nn

import mlopt
from mlopt import GraphError


@pytest.mark.parametrize(
    ("fn", "options", "match"),
    [
        (lambda w: w.sum(), {"given": [A]}, r"will be called with 2 arguments \(w, a\)"),
        (lambda w, a, b: w.sum(), {"given": [A]}, r"with 2 arguments \(w, a\)"),
        (lambda w, batch: w.sum(), {}, r"with 1 arguments \(w\).*must match"),
        (lambda w: w.sum(), {"data": batches(1)}, r"with 2 arguments \(w, batch\)"),
        (lambda w, *, scale: w.sum(), {}, r"with 1 arguments \(w\).*must match"),
    ],
)
def test_signature_mismatch(fn, options, match):
    with pytest.raises(GraphError, match=rf"<lambda>\(.*{match}"):
        mlopt.problem(over=W, **options)(fn)


@pytest.mark.parametrize("option", [0.1, 3, True, "mean", torch.relu, np.float32(1)])
def test_a_batch_that_would_be_taken_for_an_option(option):
    def fit(w, lam=option, batch=None):
        return w.sum() * 0 if batch is None else w.sum()

    with pytest.raises(GraphError, match="fit: its batch would arrive as 'lam', which is .*option"):
        mlopt.problem(over=W, data=batches(1))(fit)
    mlopt.problem(over=W)(fit)
    mlopt.problem(over=W, given=[A])(fit)  # declared as what it is
    mlopt.problem(over=W, given=[A], data=batches(1))(fit)
    mlopt.problem(over=W, data=batches(1))(lambda w, batch=None, lam=option: w.sum())
    mlopt.problem(over=W, data=batches(1))(lambda w, batch=(), lam=option: w.sum())


@pytest.mark.parametrize("fn", [None, 3, "fit", torch.zeros(1)])
def test_what_is_decorated_is_a_function(fn):
    with pytest.raises(GraphError, match="problem: it decorates a function"):
        mlopt.problem(over=W)(fn)
    with pytest.raises(GraphError, match="signal: it decorates a function"):
        mlopt.signal(given=[W])(fn)


@pytest.mark.parametrize("name", ["", 3, True, ["fit"]])
def test_a_name_is_a_word(name):
    with pytest.raises(GraphError, match="problem .*: name=.* must be a word"):
        mlopt.problem(over=W, name=name)(lambda w: w.sum())
    with pytest.raises(GraphError, match="signal .*: name=.* must be a word"):
        mlopt.signal(given=[W], name=name)(lambda w: w.sum())


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
        (None, "given= takes a list"),
        (3, "given= takes a list"),
        ("w", "given= takes a list"),
        ({"a": A}, "given= takes a list"),
        (torch.tensor(1.0), "given= takes a list"),
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
