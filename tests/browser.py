"""A headless Chromium, driven through its DevTools pipe: real keys, real clicks, and what the page then shows."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 60.0  # seconds for an answer
# The browser reads commands from descriptor 3 and answers on 4.
START = """import fcntl, os, sys
far = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3]]
os.dup2(far[0], 3), os.dup2(far[1], 4)
os.execv(sys.argv[3], sys.argv[3:])"""
VIRTUAL = {
    "ArrowLeft": 37,
    "ArrowRight": 39,
    "Home": 36,
    "End": 35,
    " ": 32,
    "c": 67,
    "j": 74,
    "k": 75,
    "Tab": 9,
}


def find_browser() -> str | None:
    """Returns the path of a browser, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One page in one browser. Use as a context manager; it ends the process that it started."""

    def __init__(self, path: str, profile: Path) -> None:
        to_read, self._out = os.pipe()
        self._in, to_write = os.pipe()
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={profile}",
            "--window-size=1000,760",
        ]
        self._process = subprocess.Popen(
            [sys.executable, "-c", START, str(to_read), str(to_write), path, *flags, "--remote-debugging-pipe"],
            pass_fds=(to_read, to_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_read)
        os.close(to_write)
        self._count, self._rest, self._session = 0, b"", ""

    def __enter__(self) -> Browser:
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(timeout=PATIENCE)
        os.close(self._in)
        os.close(self._out)

    def open(self, url: str) -> None:
        """Loads a page and waits until it is complete; where only what follows # is another, the page stays."""
        # an answer may still come from the page that is about to go
        same = f"location.href === new URL({json.dumps(url)}, location.href).href"
        self.value(f"window.isOld = true; window.hasRead = {same}")
        self.value("addEventListener('hashchange', () => { window.hasRead = true }, {once: true})")
        if "loaderId" in self._ask("Page.navigate", url=url):
            self.wait_for("!window.isOld && document.readyState === 'complete'")
        else:  # the page's own listener for what follows # runs before ours
            self.wait_for("window.hasRead")

    def value(self, expression: str) -> Any:
        """Returns the value of a JavaScript expression."""
        answer = self._ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 20.0) -> None:
        """Waits until an expression is true."""
        end = time.monotonic() + seconds
        while not self.value(expression):
            assert time.monotonic() < end, f"not within {seconds} s: {expression}"
            time.sleep(0.02)

    def press(self, key: str) -> None:
        """Presses and releases a key."""
        typed = {"text": key} if len(key) == 1 else {}
        known = {"key": key, "windowsVirtualKeyCode": VIRTUAL[key]}
        self._ask("Input.dispatchKeyEvent", type="keyDown", **known, **typed)
        self._ask("Input.dispatchKeyEvent", type="keyUp", **known)

    def click(self, selector: str, at: float = 0.5) -> None:
        """Clicks on the first element that fits; `at` is the share of its width from the left."""
        box = self.value(
            f"(r => [r.x, r.y, r.width, r.height])(document.querySelector('{selector}').getBoundingClientRect())"
        )
        place = {
            "x": box[0] + at * box[2],
            "y": box[1] + box[3] / 2,
            "button": "left",
            "clickCount": 1,
        }
        for kind in ("mousePressed", "mouseReleased"):
            self._ask("Input.dispatchMouseEvent", type=kind, **place)

    def look(self, width: int, height: int, dark: bool = False) -> None:
        """Sets the size of the window, and whether the person prefers dark pages."""
        phone = width < 600
        self._ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, mobile=phone, deviceScaleFactor=1
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self, file: Path) -> None:
        """Writes a PNG of what is to be seen."""
        file.write_bytes(
            base64.b64decode(self._ask("Page.captureScreenshot", format="png")["data"])
        )

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._count += 1
        call = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            call["sessionId"] = self._session
        os.write(self._out, json.dumps(call).encode() + b"\0")
        while True:
            message = self._next()
            if message.get("id") == self._count:
                assert "error" not in message, message
                answer: dict[str, Any] = message["result"]
                return answer

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], PATIENCE)
            assert ready, "the browser does not answer"
            part = os.read(self._in, 65536)
            assert part, "the browser has ended"
            self._rest += part
        text, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message
