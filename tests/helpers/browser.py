"""A headless Chromium driven over its DevTools protocol: load a page, read all that it shows."""

import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1400,2000",
    "--remote-debugging-port=0",
]
_SHOWN = """
(() => {
    const texts = [];
    const visit = (node) => {
        if (node.nodeType === Node.TEXT_NODE) texts.push(node.data);
        if (node.title) texts.push(node.title);
        if (node.shadowRoot) visit(node.shadowRoot);
        if (!["STYLE", "SCRIPT", "TEMPLATE"].includes(node.nodeName)) node.childNodes.forEach(visit);
    };
    visit(document.body);
    return texts.join("\\n");
})()
"""
_PICTURES = """
[...document.querySelectorAll("img")].filter((one) => one.complete && one.naturalWidth > 100).length
"""


class Tab:
    """One tab of the browser.

    Args:
        connection: to the tab's DevTools.
    """

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)

    def open(self, address: str) -> None:
        """Load a page."""
        self._call("Page.navigate", url="about:blank")  # else another #fragment of the same page loads nothing
        self._call("Page.navigate", url=address)

    def wait_for(self, *texts: str, pictures: int = 0, seconds: float = 60) -> str:
        """Everything the page shows, shadow trees included, once it shows the texts and as many loaded pictures.

        Raises:
            AssertionError: it does not in time; names what is missing.
        """
        end = time.monotonic() + seconds
        while True:
            shown, loaded = str(self.evaluate(_SHOWN) or ""), int(self.evaluate(_PICTURES) or 0)
            missing = [text for text in texts if text not in shown]
            if not missing and loaded >= pictures:
                return shown
            assert time.monotonic() < end, f"missing {missing}, {loaded} pictures loaded; the page shows:\n{shown}"
            time.sleep(0.2)

    def screenshot(self, path: Path, width: int, height: int, dark: bool = False) -> None:
        """Write what the page looks like, in a window of that many pixels, as a PNG file."""
        phone = width < 600
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        time.sleep(1)  # until it is laid out again
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot")["data"]))

    def evaluate(self, script: str) -> Any:
        """What a JavaScript expression gives in the page."""
        return self._call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._connection.recv(timeout=60))
            if answer.get("id") == number:
                return dict(answer["result"])


@contextlib.contextmanager
def chromium(profile: Path) -> Iterator[Tab]:
    """Start Chromium with an empty profile directory, on a tab; it ends with the context."""
    assert CHROMIUM is not None
    process = subprocess.Popen(
        [CHROMIUM, *_FLAGS, f"--user-data-dir={profile}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        port_file, end = profile / "DevToolsActivePort", time.monotonic() + 60
        while not (port_file.is_file() and port_file.read_text()):
            assert process.poll() is None, "Chromium ended"
            assert time.monotonic() < end, "Chromium does not start"
            time.sleep(0.1)
        port = port_file.read_text().splitlines()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=60) as answer:
            tabs = [one for one in json.load(answer) if one["type"] == "page"]
        with connect(tabs[0]["webSocketDebuggerUrl"], max_size=None, proxy=None) as connection:
            yield Tab(connection)
    finally:
        process.terminate()
        process.wait()
