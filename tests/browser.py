"""A real browser for tests: headless Chromium through chromedriver, spoken to in the WebDriver protocol."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

START = 30.0  # seconds that the driver may take to listen
ARGUMENTS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             "--disable-dev-shm-usage")  # fmt: skip

# Keys in the WebDriver protocol.
TAB, ENTER, SHIFT, SPACE, DOWN, END = "\ue004", "\ue007", "\ue008", " ", "\ue015", "\ue010"


def missing() -> str:
    """Return why there is no browser here; empty if there is one."""
    absent = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"{' and '.join(absent)} not installed (Debian: chromium, chromium-driver)" if absent else ""


class Browser:
    """One window. Raises RuntimeError with the driver's message if a command fails."""

    def __init__(self, driver: str, capabilities: dict[str, Any]) -> None:
        self._driver = driver
        opened = self._call("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
        self._session = f"/session/{opened['sessionId']}"

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(
            self._driver + path, data, {"Content-Type": "application/json"}, method=method
        )
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(asked, timeout=150) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            with error:
                raise RuntimeError(json.load(error)["value"]["message"]) from None

    def open(self, path: Path, part: str = "") -> None:
        """Load a file and wait for its load event; ``part`` is the id of the element to begin at."""
        self._call("POST", f"{self._session}/url", {"url": f"{path.resolve().as_uri()}#{part}".rstrip("#")})

    def size(self, width: int, height: int) -> None:
        """Set the size of the window in CSS pixels, its frame included."""
        self._call("POST", f"{self._session}/window/rect", {"width": width, "height": height})

    def press(self, keys: str) -> None:
        """Press and release keys one after the other, as a person does at a keyboard.

        A key between SHIFT and another SHIFT is pressed while that is held.
        """
        actions, held = [], False
        for key in keys:
            if key == SHIFT:
                held = not held
                actions.append({"type": "keyDown" if held else "keyUp", "value": key})
            else:
                actions += [{"type": kind, "value": key} for kind in ("keyDown", "keyUp")]
        body = {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]}
        self._call("POST", f"{self._session}/actions", body)

    def name_of_focus(self) -> str:
        """Return the accessible name of the element that has the focus."""
        found = self._call("GET", f"{self._session}/element/active")
        return str(self._call("GET", f"{self._session}/element/{next(iter(found.values()))}/computedlabel"))

    def run(self, script: str) -> Any:
        """Run the body of a function in the page and return its value; a promise is waited for."""
        return self._call("POST", f"{self._session}/execute/sync", {"script": script, "args": []})

    def wait(self, condition: str, seconds: float = 30.0) -> None:
        """Wait until an expression is true. Raises TimeoutError."""
        end = time.monotonic() + seconds
        while not self.run(f"return Boolean({condition})"):
            if time.monotonic() > end:
                raise TimeoutError(condition)
            time.sleep(0.05)

    def log(self) -> list[str]:
        """Return the console's errors and warnings since the last call."""
        entries = self._call("POST", f"{self._session}/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] in ("SEVERE", "WARNING")]

    def pdf(self) -> bytes:
        """Return the page as printed."""
        return base64.b64decode(self.command("Page.printToPDF")["data"])

    def command(self, name: str, **parameters: Any) -> Any:
        """Send a command of the Chrome DevTools protocol."""
        body = {"cmd": name, "params": parameters}
        return self._call("POST", f"{self._session}/goog/cdp/execute", body)

    def close(self) -> None:
        """End the session and its browser."""
        self._call("DELETE", self._session)


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """Start a driver and a window with a profile in ``folder``, and end both."""
    chrome = {
        "binary": shutil.which("chromium"),
        "args": [*ARGUMENTS, f"--user-data-dir={folder / 'profile'}"],
    }
    capabilities = {
        "timeouts": {"script": 120_000, "pageLoad": 120_000},
        "goog:chromeOptions": chrome,
        "goog:loggingPrefs": {"browser": "ALL"},
    }
    port_file = folder / "driver.log"
    with port_file.open("w") as log:
        driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=log, stderr=log)
    try:
        address = f"http://127.0.0.1:{_port(port_file, driver)}"
        window = Browser(address, capabilities)
        try:
            yield window
        finally:
            window.close()
    finally:
        driver.terminate()
        driver.wait(10)


def _port(log: Path, driver: subprocess.Popen[bytes]) -> int:
    """Return the port that the driver says it listens on."""
    end = time.monotonic() + START
    while time.monotonic() < end and driver.poll() is None:
        for line in log.read_text().splitlines():
            if "on port " in line and "successfully" in line:
                return int(line.rsplit("on port ", 1)[1].rstrip(". "))
        time.sleep(0.05)
    raise RuntimeError(f"chromedriver did not start: {log.read_text()[-300:]}")
