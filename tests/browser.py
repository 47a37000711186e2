"""Chromium without a window, driven over its own debugging protocol: real clicks, keys and screens."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

from tests.waiting import until

CHROMIUM = shutil.which("chromium")
MAY_SKIP = CHROMIUM is None and not os.environ.get("CI")
"""Whether tests may go without a browser: not where nobody would notice that they do."""
_FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
]
_PATIENCE = 60.0


class Page:
    """The one page of a browser."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)
        self.tell("Page.enable")

    def tell(self, method: str, **parameters: object) -> dict[str, Any]:
        """One command of the protocol and its result."""
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv(_PATIENCE))
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]

    def open(self, address: str) -> None:
        self.tell("Page.navigate", url=address)

    def value(self, script: str) -> Any:
        """What an expression is in the page."""
        result = self.tell("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait_for(self, script: str) -> None:
        """Until an expression is true; what it names may not be there yet."""
        tried = f"(() => {{ try {{ return Boolean({script}) }} catch {{ return false }} }})()"
        try:
            until(lambda: self.value(tried), f"{script} is true", _PATIENCE)
        except AssertionError as error:
            error.add_note(f"The page says: {self.text()}")
            raise

    def text(self) -> str:
        """All that can be read."""
        return str(self.value("document.body ? document.body.innerText : ''"))

    def press(self, key: str) -> None:
        """One key, as a person does."""
        code = {"Tab": 9, "Enter": 13, "Escape": 27, "/": 191}[key]
        typed = {"text": "\r"} if key == "Enter" else {"text": key} if len(key) == 1 else {}
        for kind in ("keyDown", "keyUp"):
            more = typed if kind == "keyDown" else {}
            self.tell("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **more)

    def type(self, text: str) -> None:
        self.tell("Input.insertText", text=text)

    def hover(self, selector: str) -> None:
        """Move the mouse over the middle of an element."""
        x, y = self._middle(selector)
        self.tell("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def _middle(self, selector: str) -> tuple[float, float]:
        box = self.value(f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])({_box(selector)})")
        return float(box[0]), float(box[1])

    def tap(self, selector: str) -> None:
        """Touch the middle of an element with a finger."""
        x, y = self._middle(selector)
        self.tell("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        self.tell("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def look_like(self, width: int, height: int, *, phone: bool = False, dark: bool = False) -> None:
        """The size of the screen, and whether it is light or dark."""
        self.tell("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.tell("Emulation.setTouchEmulationEnabled", enabled=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.tell("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self) -> bytes:
        """What is seen, as PNG."""
        return base64.b64decode(self.tell("Page.captureScreenshot", format="png")["data"])


def _box(selector: str) -> str:
    return f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"


@contextmanager
def browser(profile: Path) -> Iterator[Page]:
    """A running browser with an empty page."""
    assert CHROMIUM is not None, "chromium is not installed: apt-get install chromium"
    command = [CHROMIUM, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with connect(_page_address(profile), max_size=None, proxy=None) as connection:
            yield Page(connection)
    finally:
        process.terminate()
        process.wait(20)


def _page_address(profile: Path) -> str:
    file = profile / "DevToolsActivePort"

    def found() -> list[str]:
        if not file.exists() or not file.read_text().strip():
            return []
        port = file.read_text().split()[0]
        pages = httpx.get(f"http://127.0.0.1:{port}/json/list", timeout=30, trust_env=False).json()
        return [one["webSocketDebuggerUrl"] for one in pages if one["type"] == "page"]

    return until(found, "Chromium has a page", _PATIENCE)[0]
