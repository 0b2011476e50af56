"""A headless browser that a test talks to: no package, only the two pipes that Chromium offers."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["NAMES", "Browser", "opened"]

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_SWITCHES = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--no-first-run", "--disable-background-networking", "--remote-debugging-pipe",
)  # fmt: skip
#: Becomes the browser, with its ends of the pipes where it looks for them.
_PLACE = """
import os, sys
for end, place in zip(sys.argv[1:3], (3, 4)):
    os.dup2(int(end), place)
os.execv(sys.argv[3], sys.argv[3:])
"""
_PATIENCE = 60  # seconds


class Browser:
    """One page of a browser, spoken to by the DevTools protocol.

    Args:
        to: descriptor of the pipe that the browser reads.
        back: descriptor of the pipe that it writes.
    """

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back = os.fdopen(to, "wb", 0), os.fdopen(back, "rb", 0)
        self._count, self._rest, self._session = 0, b"", ""
        self.events: list[dict[str, Any]] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: object) -> dict[str, Any]:
        """Call a method of the protocol and wait for what it returns; events before are kept."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._to.write(json.dumps(message).encode() + b"\0")
        while True:
            found = self._next()
            if found.get("id") == self._count:
                if "error" in found:
                    raise RuntimeError(f"{method}: {found['error']}")
                return found["result"]

    def open(self, path: Path, *, width: int, dark: bool = False, height: int = 900) -> None:
        """Load a file in a window of this width, and forget what was said of the one before."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.ask("Page.navigate", url=path.resolve().as_uri())
        self.wait("Page.loadEventFired")

    def wait(self, event: str) -> None:
        """Wait until the browser tells of this, if it has not yet; once told it is forgotten."""
        while not any(found["method"] == event for found in self.events):
            self._next()
        self.events = [found for found in self.events if found["method"] != event]

    def run(self, script: str) -> Any:
        """The value of an expression in the page, whatever its policy says of scripts."""
        found = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(str(found["exceptionDetails"]))
        return found["result"].get("value")

    def press(self, key: str) -> None:
        """Press a key, as a person does."""
        code = {"Tab": 9, "Enter": 13, "ArrowRight": 39}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            more = text if kind == "keyDown" else {}
            self.ask(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key,
                windowsVirtualKeyCode=code, **more,
            )  # fmt: skip

    def picture(self, path: Path) -> None:
        """Write the whole page as a PNG, to be looked at."""
        data = self.ask("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def close(self) -> None:
        self._to.close()
        self._back.close()

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            if not select.select([self._back], [], [], _PATIENCE)[0]:
                raise RuntimeError(f"the browser has said nothing for {_PATIENCE} seconds")
            more = self._back.read(1 << 16)
            if not more:
                raise RuntimeError("the browser has ended")
            self._rest += more
        text, _, self._rest = self._rest.partition(b"\0")
        found = json.loads(text)
        if "method" in found:
            self.events.append(found)
        return found


@contextlib.contextmanager
def opened() -> Iterator[Browser | None]:
    """A browser for a while; None where none is installed."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        yield None
        return
    reads, to = os.pipe()
    back, writes = os.pipe()
    # Out of the way of 3 and 4, where the browser looks for its ends.
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (reads, writes)]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        switches = [*_SWITCHES, f"--user-data-dir={profile}"]
        process = subprocess.Popen(
            [sys.executable, "-ISc", _PLACE, *map(str, ends), program, *switches, "about:blank"],
            pass_fds=ends, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for end in (reads, writes, *ends):
            os.close(end)
        try:
            browser = Browser(to, back)
            try:
                yield browser
            finally:
                browser.close()  # at which the browser ends
        finally:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
