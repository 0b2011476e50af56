"""Options and fixtures for all tests."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator

import pytest
import torch
from compare import Headroom, used
from hypothesis import settings

# The same examples on every run, so that a failure is seen where it was made and not by whoever
# comes next. To look for new ones: pytest --hypothesis-profile default.
settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile("same")

# A program that a shell starts in the background ignores Ctrl-C, and so would all that it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Most of what a test makes goes without the collector of garbage, which walks through all of torch:
# it looks seldom. A test that asks whether something is freed collects by itself, or means at once.
gc.set_threshold(50_000)

# Networks as small as those here gain nothing from several threads; and a child that a test forks
# would wait for ever for those that OpenMP had in the parent.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def ctrl_c_arrives() -> Iterator[None]:
    """No engine keeps Ctrl-C from the program when its work is over, whatever became of it."""
    before = signal.getsignal(signal.SIGINT)
    yield
    after = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)
    assert after == before


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device",
        default="cpu",
        help="device for the tests that compute, for example cuda (default: cpu)",
    )
    parser.addoption(
        "--runs",
        default="",
        help="folder of examples/experiments.py, whose finished runs the slow tests of the matrix "
        "check instead of running them again (default: none)",
    )
    parser.addoption(
        "--headroom",
        action="store_true",
        help="at the end, list the tests that use more than a tenth of what rounding may take, and "
        "below them those that come near a bound with another reason",
    )


def pytest_configure(config: pytest.Config) -> None:
    """A warning that is attributed to a file of this project is an error."""
    names = {"mlopt", "tests", "examples", "benchmarks"}
    for folder in names - {"mlopt"}:
        found = (config.rootpath / folder).glob("**/*")
        names = names | {f.stem for f in found if f.suffix == ".py" or f.is_dir()}
    ours = "|".join(sorted(names - {"__init__", "__pycache__"}))
    config.addinivalue_line("filterwarnings", rf"error:::({ours})(\.|$)")


def pytest_collection_finish(session: pytest.Session) -> None:
    """The collector of garbage need not walk through what is there until the end."""
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item):
    """What each test's comparisons used of their bounds travels with its report, to the workers'
    controller as well.
    """
    used[0] = Headroom()
    try:
        return (yield)
    finally:
        noted = used[0]
        item.user_properties.append(("headroom", (noted.exact, noted.near, noted.where)))


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    if any("no browser" in str(r.longrepr) for r in terminalreporter.getreports("skipped")):
        terminalreporter.section("reports were not looked at in a browser")
        terminalreporter.line("There is none on this machine. To install one: make browser")
    if not config.getoption("--headroom"):
        return
    reports = [r for kind in ("passed", "failed") for r in terminalreporter.getreports(kind)]
    rows = [(*dict(r.user_properties)["headroom"], r.nodeid) for r in reports
            if "headroom" in dict(r.user_properties)]  # fmt: skip
    compared = sum(exact > 0 or near > 0 for exact, near, _, _ in rows)
    terminalreporter.section(f"headroom: {compared} tests with comparisons that are not of bits")
    for title, place, limit in (("rounding", 0, 0.1), ("bias and chance", 1, 0.5)):
        tight = sorted((r for r in rows if r[place] > limit), key=lambda r: -r[place])
        terminalreporter.line(f"above {limit} of the bound, {title}: {len(tight)}")
        for row in tight:
            where = f"  {row[2]}" if place == 0 else ""
            terminalreporter.line(f"  {row[place]:.3f}  {row[3]}{where}")


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device that was asked for with --device."""
    device = torch.device(request.config.getoption("--device"))
    if device.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("--device cuda, but torch sees no GPU on this machine")
    return device


@pytest.fixture(autouse=True)
def _no_global_setting_leaks():
    """A test that changes torch's global settings changes the tests after it: name it instead."""
    before = _global_settings()
    yield
    after = _global_settings()
    leaked = {name: (before[name], after[name]) for name in before if before[name] != after[name]}
    if "default dtype" in leaked:
        torch.set_default_dtype(before["default dtype"])
    assert not leaked, f"global torch settings (before, after) were not restored: {leaked}"


def _global_settings() -> dict:
    return {
        "default dtype": torch.get_default_dtype(),
        "grad mode": torch.is_grad_enabled(),
        "anomaly mode": torch.is_anomaly_enabled(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
    }
