"""For pytest: keep the tests that use the device, and write down each as soon as it has ended.

What is written down is there, too, if time is over before the last test.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", help="file: a line of JSON for each test")


@pytest.hookimpl(trylast=True)  # what -m and the like have left
def pytest_collection_modifyitems(config: pytest.Config, items: list[Any]) -> None:
    kept = [item for item in items if "device" in getattr(item, "fixturenames", ())]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
    items[:] = kept
    # Each of several workers collects the same.
    Path(f"{config.getoption('--record')}.selected").write_text(str(len(kept)))


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # the workers' reports come here
        config.pluginmanager.register(_Recorder(Path(str(config.getoption("--record")))))


class _Recorder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.path.touch()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self._write(report.nodeid, report.outcome, report.duration, report.longreprtext)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._write(report.nodeid, "failed", 0.0, report.longreprtext)

    def _write(self, test: str, outcome: str, seconds: float, text: str) -> None:
        errors = [line[1:].strip() for line in text.splitlines() if line.startswith("E  ")]
        why = errors[0] if errors else text.strip().splitlines()[-1] if text.strip() else ""
        line = {"test": test, "outcome": outcome, "seconds": seconds, "why": why}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
