"""What a notebook shows of graphs, plans and audits: escaped, in the page's colours."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
import torch
from engine.test_prints import staged
from small import bilevel, sgd
from torch import nn

import mlopt

EVIL = '<b title="x">&amp; $x$ </title>'


def parsed(html: str) -> ElementTree.Element:
    return ElementTree.fromstring(f"<div>{html.replace('<br>', '<br/>')}</div>")


def texts(element: ElementTree.Element, kind: str) -> list[str]:
    name = f".//{{http://www.w3.org/2000/svg}}{kind}" if kind == "text" else f".//{kind}"
    return ["".join(found.itertext()) for found in element.iterfind(name)]


def rows(element: ElementTree.Element) -> list[list[str]]:
    return [["".join(cell.itertext()) for cell in row] for row in element.iterfind(".//tr")]


def parts(html: str) -> list[str]:
    return re.findall(r"<(?:svg|table|p)\b[^>]*>", html)


def engines() -> list[mlopt.Engine]:
    return [staged(), staged(mlopt.Frozen()), bilevel().engine()]


@pytest.mark.parametrize("engine", engines())
def test_the_picture_has_the_nodes_and_edges_of_the_chart(engine: mlopt.Engine) -> None:
    chart = engine.graph.mermaid()
    drawn = engine.graph._repr_html_()
    picture = parsed(drawn)
    labels = texts(picture, "text")[::2]
    assert labels == list(reversed(re.findall(r'\["?\(?\[?"(\w+)', chart)))
    arcs = re.findall(r'fill="none" stroke="currentColor"( stroke-dasharray="2 3")?><title>', drawn)
    assert arcs == [" stroke-dasharray=\"2 3\"" if "-.->" in line else ""
                    for line in chart.splitlines() if "->" in line]  # fmt: skip


@pytest.mark.parametrize("engine", engines())
def test_the_table_of_a_plan_has_what_its_text_has(engine: mlopt.Engine) -> None:
    plan = engine.plan()
    shown = parsed(plan._repr_html_())
    head, *lines = rows(shown)
    text = str(plan).splitlines()
    assert " ".join(head).split() == text[0].split()
    assert [" ".join(line).split() for line in lines] == [
        line.split() for line in text[1 : 1 + len(lines)]
    ]
    assert texts(shown, "p") == text[1 + len(lines) :]


def test_the_table_of_an_audit_has_what_its_text_has() -> None:
    audit = mlopt.audit(bilevel(hypergrad=mlopt.OneStep()).engine())
    head, *lines = rows(parsed(audit._repr_html_()))
    text = str(audit).splitlines()
    assert " ".join(head).split() == text[0].split()
    assert [" ".join(line).split() for line in lines] == [
        line.split() for line in text[2 : 2 + len(lines)]
    ]
    coarse = mlopt.Audit(audit.findings, ("one & two",), "float32")
    notes = texts(parsed(coarse._repr_html_()), "p")
    assert notes == ["compared in float32, in which small errors cannot be told", "! one & two"]
    assert texts(parsed(mlopt.Audit(())._repr_html_()), "p") == [str(mlopt.Audit(()))]


def test_names_are_text_and_nothing_has_a_colour_of_its_own() -> None:
    W = mlopt.Variable(nn.Parameter(torch.ones(2)), EVIL)
    fit = mlopt.problem(over=W, optimizer=sgd(W), name=EVIL)(lambda w: w.square().sum())
    engine = mlopt.Engine([fit])
    graph, plan = engine.graph._repr_html_(), engine.plan()._repr_html_()
    audit = mlopt.Audit((), (EVIL,))._repr_html_()
    assert texts(parsed(graph), "text") == [EVIL, f"min over {EVIL}"]
    assert rows(parsed(plan))[1][0] == EVIL
    assert texts(parsed(audit), "p")[1] == f"! {EVIL}"
    for html in (graph, plan, audit):
        assert all('class="tex2jax_ignore"' in part for part in parts(html))  # no formulas
        found = re.findall(r'(?:fill|stroke|color|background)[=:]"?([\w#-]+)', html)
        assert set(found) <= {"none", "currentColor", "inherit"}


def test_a_long_label_is_cut() -> None:
    W = mlopt.Variable(nn.Parameter(torch.ones(2)), "w")
    fit = mlopt.problem(over=W, optimizer=sgd(W), name="n" * 100)(lambda w: w.square().sum())
    drawn = texts(parsed(mlopt.Graph([fit])._repr_html_()), "text")
    assert drawn == ["n" * 39 + "…", "min over w"]
