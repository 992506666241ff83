"""A real Chromium, driven by its DevTools protocol: open a page as a phone or a desk does, and look at it."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

_FLAGS: Final = (
    "--headless=new",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)
_STARTED_S_MAX: Final = 180.0


@dataclass
class Tab:
    """One tab. `complaints` are its console errors and what its security policy has blocked."""

    _socket: aiohttp.ClientWebSocketResponse
    complaints: list[str] = field(default_factory=list)
    _numbers: count[int] = field(default_factory=lambda: count(1))
    _session: str = ""

    async def show(self, url: str, *, width: int, scheme: str, height: int = 900) -> None:
        """Load `url` in a window of this width (CSS pixels), for a user who prefers the colour `scheme`."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        await self.call("Emulation.setEmulatedMedia", features=features)
        await self.call("Page.navigate", url=url)
        while (await self._next())["method"] != "Page.loadEventFired":
            pass

    async def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        result = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def screenshot(self, path: Path) -> None:
        """Write a picture of the whole page, as PNG."""
        shot = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))  # noqa: ASYNC240 - a test may wait for the disk

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of one call of the protocol."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        await self._socket.send_json(message | ({"sessionId": self._session} if self._session else {}))
        while True:
            answer = await self._next()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    async def open(self) -> None:
        """Open the tab."""
        target = (await self.call("Target.createTarget", url="about:blank"))["targetId"]
        attached = await self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            await self.call(f"{domain}.enable")

    async def _next(self) -> dict[str, Any]:
        message: dict[str, Any] = await self._socket.receive_json()
        method, parameters = message.setdefault("method", ""), message.get("params", {})
        is_error = parameters.get("type") == "error" or parameters.get("entry", {}).get("level") == "error"
        if method == "Runtime.exceptionThrown" or (
            method in ("Runtime.consoleAPICalled", "Log.entryAdded") and is_error
        ):
            self.complaints.append(str(parameters))
        return message


@asynccontextmanager
async def chromium_tab(folder: Path) -> AsyncIterator[Tab]:
    """A tab of a new browser with its profile in `folder`. Skips the test where there is no Chromium."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("no `chromium` on the path: nothing to look at the pages with")
    flags = (*_FLAGS, f"--user-data-dir={folder}", *(("--no-sandbox",) if os.geteuid() == 0 else ()))
    browser = await asyncio.create_subprocess_exec(
        program, *flags, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    try:
        assert browser.stderr is not None
        async with asyncio.timeout(_STARTED_S_MAX):
            while b"DevTools listening on " not in (line := await browser.stderr.readline()):
                assert line, "chromium ended"
        reading = asyncio.create_task(browser.stderr.read())  # or it would wait for a full pipe
        address = line.decode().partition(" on ")[2].strip()
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(address, max_msg_size=0) as socket,
        ):
            tab = Tab(socket)
            await tab.open()
            yield tab
    finally:
        if browser.returncode is None:
            browser.terminate()
        await browser.wait()
    await reading
