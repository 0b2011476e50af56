"""The documentation: its examples run, its links lead somewhere, its names and figures are real."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import GRAPHS
from compare import exact
from oracles import Composed, assert_same_gradients, sweep_rounding
from pages import programs
from sklearn.linear_model import lars_path

import mlopt
import mlopt.nas
from mlopt import Central, Dense, Implicit, OneStep

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
RESULTS = ROOT / "benchmarks" / "results"

if not DOCS.is_dir():
    pytest.skip("no docs beside these tests", allow_module_level=True)


# Examples.


def run(name: str, source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An example as a module; one whose first line is `# name.py` can be imported by others."""
    first = re.match(r"# (\w+)\.py\n", source)
    name = first.group(1) if first else name
    path = folder / f"{name}.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


# The gallery's test of interleaving runs the whole tutorial, and compares what it prints.
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.slow if "tutorial-new-scheme" in name else ())
        for page, name in zip(PAGES[1:], NAMES[1:], strict=True)
    ],
    ids=NAMES[1:],
)
def test_the_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for i, (source, _) in enumerate(programs(page)):
            run(f"example_{i}", source, tmp_path, monkeypatch)


def test_the_readme_prints_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ((source, printed),) = programs(README)
    with torch.random.fork_rng():
        found = run("readme", source, tmp_path, monkeypatch)
    assert capsys.readouterr().out.rstrip() == printed.rstrip()

    # and what it says below
    (x, y), n = found.train, len(found.train[1])
    eye = torch.eye(x.shape[1], dtype=x.dtype)
    penalties = torch.logspace(-3, 2, 60).tolist()
    ridges = [torch.linalg.solve(x.T @ x / n + p * eye, x.T @ y / n) for p in penalties]

    def error(rows: Any, w: torch.Tensor) -> float:
        return torch.nn.functional.mse_loss(rows[0] @ w, rows[1]).item()

    single = min(ridges, key=lambda w: error(found.valid, w))
    assert f"the best of a grid, gives {error(found.test, single):.2f};" in README.read_text()
    names, order = found.data.feature_names, lars_path(found.data.data, found.data.target)[1]
    line = next(line for line in printed.splitlines() if line.startswith("small penalties: "))
    assert set(line.split()[2:]) == {names[i] for i in order[:5]}


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 130


def test_there_are_examples() -> None:
    counts = {name: len(programs(page)) for name, page in zip(NAMES, PAGES, strict=True)}
    assert counts["README.md"] == 1
    assert counts["docs/add-a-hypergradient.md"] == 2


# The method of the page on adding one.


@pytest.fixture
def clipped_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    source, _ = programs(DOCS / "add-a-hypergradient.md")[0]
    return run("clipped_step", source, tmp_path, monkeypatch).ClippedStep


def clipped(w: list[Any], g: list[Any], lr: float, clip: float) -> list[Any]:
    """w - lr min(1, clip / |g|) g, in plain autograd."""
    length = torch.cat([t.flatten() for t in g if t is not None]).norm()
    factor = lr if length.item() <= clip else lr * clip / length
    return [a if b is None else a - factor * b for a, b in zip(w, g, strict=True)]


class Clipped(Composed):
    """The oracle, with the solution of the page's method."""

    def _solve(self, problem: Any, given: dict[Any, Any]) -> dict[Any, Any]:
        method = self.method(problem)
        if type(method).__name__ != "ClippedStep":
            return super()._solve(problem, given)
        own = self._leaves(problem)
        values = {v: {**given[v], **{n: own[v, n] for u, n in own if u is v}} for v in problem.over}
        loss = self._objective(problem, {**given, **values})
        grads = torch.autograd.grad(loss, list(own.values()), create_graph=True, allow_unused=True)
        moved = clipped([t.detach() for t in own.values()], list(grads), method.lr, method.clip)
        for (v, n), t in zip(own, moved, strict=True):
            values[v][n] = t
        return values


@pytest.mark.parametrize("clip", [0.5, 1e3])
@pytest.mark.parametrize("graph", GRAPHS)
def test_the_added_method_obeys_the_law(
    graph: str, clip: float, clipped_step: Any, device: torch.device
) -> None:
    case = GRAPHS[graph](
        device, lambda: clipped_step(0.5, clip), lambda p: torch.optim.SGD(p, lr=0.1)
    )
    engine = mlopt.Engine(case.nodes, device=device)
    oracle = Clipped(case.nodes, batch=case.batch, seed=engine.seed_of)
    for problem in (p for p in case.nodes if isinstance(p, mlopt.Problem)):
        found, expected = engine.hypergradient(problem), oracle.hypergradient(problem)
        assert_same_gradients(found, expected, sweep_rounding(6), problem.name)


@pytest.mark.parametrize("clip", [0.1, 1e3])
def test_the_added_method_serves_nested_levels(clip: float, clipped_step: Any) -> None:
    """Bottom, middle and top as one program: the bottom follows the middle."""
    start = {n: torch.linspace(0.3, i + 1.0, 3).double() for i, n in enumerate("wma")}
    W, M, A = (mlopt.Variable(torch.nn.Parameter(t.clone()), n) for n, t in start.items())

    def f(w, m, a):  # it reads the top, so that D at the bottom is differentiated in its turn
        return (torch.cosh(w - m) + w**2 * m.flip(0) + torch.sin(a * w)).sum()

    def g(m, w, a):
        return (torch.sin(m) * w + (m - a) ** 2 + a * m * w).sum()

    def h(a, m, w):
        return (m * w * a + torch.cos(w) + m**2).sum()

    method = clipped_step(0.5, clip)
    bottom = mlopt.problem(over=W, given=[M, A], hypergrad=method)(f)
    middle = mlopt.problem(over=M, given=[W, A], hypergrad=method)(g)
    top = mlopt.problem(over=A, given=[M, W])(h)
    found = mlopt.Engine([bottom, middle, top]).hypergradient(top)[A][""]

    def step(objective, w):
        w = w.detach().requires_grad_()
        return clipped([w.detach()], list(grad(objective(w), w)), 0.5, clip)[0]

    def grad(y, x):
        return torch.autograd.grad(y, x, create_graph=True)

    def solved(m):
        return step(lambda w: f(w, m, a), start["w"])

    a = start["a"].clone().requires_grad_()
    m = step(lambda m: g(m, solved(m), a), start["m"])
    expected = grad(h(a, m, solved(m)), a)[0]
    exact(found, expected, sweep_rounding(3))


# What nesting costs.


def chain(levels: int, method: Any, nested: bool) -> list[Any]:
    """Each level reads the one below, and the one above (nested) or the top one (staged)."""
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(3, dtype=torch.float64, generator=generator) for _ in range(levels)]
    V = [mlopt.Variable(torch.nn.Parameter(t), f"v{i}") for i, t in enumerate(values)]

    def make(i: int) -> Any:
        above = [V[i + 1 if nested else -1]] if i + 1 < levels else []
        below = [V[i - 1]] if i else []

        def objective(own, above, below):
            pull = sum(((own - t.sin()) ** 2).sum() for t in above) if above else (own**2).sum()
            return pull + sum(0.1 * (t * own.cos()).sum() for t in below)

        given = [[*above], [*below]]
        if not above:
            fn, given = (lambda own, below: objective(own, [], below)), [below]
        elif not below:
            fn, given = (lambda own, above: objective(own, above, [])), [above]
        else:
            fn = objective
        options = {"hypergrad": method} if above else {}
        return mlopt.problem(over=V[i], given=given, name=f"level{i}", **options)(fn)

    return [make(i) for i in range(levels)]


def evaluations(levels: int, method: Any, nested: bool) -> int:
    """Of all objectives, in one hypergradient of the top."""
    nodes, calls = chain(levels, method, nested), []
    engine = mlopt.Engine(nodes)
    engine.hypergradient(nodes[-1])  # the checks of the first call
    for node in nodes:
        node.fn = lambda *args, fn=node.fn: calls.append(1) or fn(*args)
    engine.hypergradient(nodes[-1])
    return len(calls)


METHODS = {
    "nested, `OneStep(product=Central())`": [(OneStep(0.1, Central()), True)],
    "staged, `OneStep(product=Central())`": [(OneStep(0.1, Central()), False)],
    "nested or staged, `OneStep()`": [(OneStep(0.1), True), (OneStep(0.1), False)],
    "nested, `Implicit(Dense())`": [(Implicit(Dense()), True)],
    "staged, `Implicit(Dense())`": [(Implicit(Dense()), False)],
}


@pytest.mark.parametrize(
    "levels", [(2, 3, 4), pytest.param((5,), marks=pytest.mark.slow)], ids=["fewer", "five"]
)
def test_the_cost_of_nesting_is_as_stated(levels: tuple[int, ...]) -> None:
    stated = {row[0]: [int(n) for n in row[1:]] for row in table(DOCS / "mathematics.md", "levels")}
    assert set(stated) == set(METHODS)
    for name, variants in METHODS.items():
        for method, nested in variants:
            found = [evaluations(n, method, nested) for n in levels]
            assert found == [stated[name][n - 2] for n in levels], name


# Figures, names and links.


def table(page: Path, first: str) -> list[list[str]]:
    """The rows of the first table whose first heading is this one."""
    lines = iter(page.read_text().splitlines())
    for line in lines:
        if line.startswith("|") and cells(line)[0] == first:
            break
    next(lines)
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append(cells(line))
    return rows


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def test_the_figures_are_those_of_the_benchmark() -> None:
    """kind, library, method, K, error, cosine, own error, forward, backward, ..."""
    measured = [row[2:6] + row[7:9] for row in table(RESULTS / "error_vs_cost_cpu.md", "kind")
                if row[1] == "mlopt"]  # fmt: skip
    quoted = table(DOCS / "choose-a-hypergradient.md", "method")
    assert len(quoted) > 10
    for row in quoted:
        assert row in measured, row


def test_the_commands_of_the_benchmarks_are_those_of_the_files() -> None:
    page = (DOCS / "benchmarks.md").read_text()
    results = "".join(p.read_text() for p in RESULTS.glob("*.md"))
    commands = re.findall(r"^python .*", page, re.MULTILINE)
    assert len(commands) > 15
    assert [c for c in commands if f"`{c}`" not in results] == []


def test_the_files_that_are_named_exist() -> None:
    named: list[tuple[str, str]] = []
    for page, text in zip(NAMES, [page.read_text() for page in PAGES], strict=True):
        files = re.findall(r"\b(?:benchmarks|examples|docs|tests)/[\w/.-]+\.\w+", text)
        files += re.findall(r'\b(?:src|srcset)="([^":]+)"', text)
        named += [(page, name) for name in files]
    assert [(page, name) for page, name in named if not (ROOT / name).exists()] == []


def test_the_pictures_are_those_of_their_genotype(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = DOCS / "pictures"
    cells = run("cells", (folder / "cells.py").read_text(), tmp_path, monkeypatch)
    light, dark = ((folder / f"cells-{page}.svg").read_text() for page in ("light", "dark"))
    drawn = cells.light(mlopt.nas.Genotype.from_json((folder / "cells.json").read_text()))
    texts = re.compile(r">([^<>\n]+)</text>")
    assert len(texts.findall(light)) > 10
    assert texts.findall(light) == texts.findall(drawn)
    assert cells.dark(light) == dark


def test_the_reference_names_all_and_nothing_else() -> None:
    named = re.findall(r"`(\w+)`", (DOCS / "reference.md").read_text())
    assert set(named) == set(mlopt.__all__)


def anchors(page: Path) -> set[str]:
    """What headings are called in links."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", h).strip().lower()) for h in headings}


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            link = f"{page.name}: {target}"
            assert file.exists(), f"{link} does not exist"
            if page.is_relative_to(DOCS):
                assert file.is_relative_to(DOCS), f"{link} is outside of the site"
            assert not anchor or anchor in anchors(file), f"{link}: no such heading"


def test_every_page_is_in_the_navigation() -> None:
    listed = re.findall(r": ([\w/.-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(
        page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")
    )
