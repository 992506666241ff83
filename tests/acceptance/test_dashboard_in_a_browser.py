"""Real Chromium shows every page of the dashboard on a phone and on a desk, in light and dark.

`TRADEPOST_SCREENSHOTS` names a folder where it leaves a picture of each.
"""

from __future__ import annotations

import os
from itertools import product
from pathlib import Path
from typing import Final

import pytest

from chromium import Tab, chromium_tab
from tradepost.protocol import Settled
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.testing import FakeWorker, LocalBroker, local_broker, wrong_echo

pytestmark = pytest.mark.acceptance

HOSTILE: Final = "<script>alert('x')</script><img src=x onerror=alert(1)>\" onmouseover=\"alert(2)"
WIDTHS: Final = (390, 1280)
#: Figures, times and badges that are broken over several lines.
WRAPPED: Final = """
[...document.querySelectorAll('main .number, main time, main .badge, main .score')]
  .filter(e => getComputedStyle(e).display === 'inline' && e.getClientRects().length > 1)
  .map(e => e.textContent.trim())
"""
#: Elements that are wider than the window, unless they scroll in a frame of their own.
TOO_WIDE: Final = """
[...document.querySelectorAll('body *')]
  .filter(e => !e.closest('.scroll, .skip, thead') && e.getBoundingClientRect().right > innerWidth + 1)
  .map(e => e.outerHTML.slice(0, 120))
"""
#: What a screen reader could not name, or would not know the place of.
UNNAMED: Final = """
[
  ...[...document.querySelectorAll('section')].filter(
    e => !document.getElementById(e.getAttribute('aria-labelledby'))),
  ...[...document.querySelectorAll('.scroll')].filter(e => !e.ariaLabel || e.tabIndex !== 0),
  ...[...document.querySelectorAll('input, select')].filter(e => !e.labels.length),
  ...[...document.querySelectorAll('svg')].filter(e => e.role !== 'img' || !e.querySelector('title')),
  ...[...document.querySelectorAll('a')].filter(e => !e.textContent.trim()),
].map(e => e.outerHTML.slice(0, 120))
"""
#: The contrast of each text with what is behind it, where it is too little to be read (WCAG 2, AA).
PALE: Final = """
(() => {
  const parts = text => text.match(/[0-9.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ground = e => {
    for (; e; e = e.parentElement) {
      const color = parts(getComputedStyle(e).backgroundColor);
      if (color.length < 4 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll('body *')]
    .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) && !e.closest('svg'))
    .map(e => [light(parts(getComputedStyle(e).color)), light(ground(e)), e])
    .filter(([a, b]) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < 4.5)
    .map(([a, b, e]) => e.outerHTML.slice(0, 120));
})()
"""


def paths_of(broker: LocalBroker, worker: FakeWorker, pipeline: str) -> list[str]:
    """Every page of the dashboard, as the routes have them."""
    pages = [one.path for one in broker.running.parts.endpoints if one.media == "text/html"]
    return [path.format(worker=worker.id, pipeline=pipeline) for path in pages]


async def look(tab: Tab, url: str, *, width: int, scheme: str) -> None:
    await tab.show(url, width=width, scheme=scheme)
    await tab.call("Runtime.evaluate", expression="document.fonts.ready", awaitPromise=True)
    if folder := os.environ.get("TRADEPOST_SCREENSHOTS"):
        name = url.partition("://")[2].partition("/")[2].replace("/", "_") or "market"
        await tab.screenshot(Path(folder) / f"{name[:40]}-{width}-{scheme}.png")
    assert await tab.evaluate("document.documentElement.scrollWidth - innerWidth") == 0
    for script in (WRAPPED, TOO_WIDE, UNNAMED, PALE):
        assert await tab.evaluate(script) == []
    assert tab.complaints == []


async def test_every_page_is_whole_on_a_phone_and_on_a_desk(tmp_path: Path) -> None:
    policy = MarketPolicy(audit_rate=1.0, references_to_expel=1)
    async with (
        local_broker(tmp_path / "broker", policy=policy) as broker,
        chromium_tab(tmp_path / "profile") as tab,
    ):
        key = await broker.account()
        nobody = FakeWorker(broker.session, broker.url)
        for path, scheme in product(paths_of(broker, nobody, ""), ("light", "dark")):
            if not path.startswith(("/workers/", "/pipelines/")):  # the empty states
                await look(tab, broker.url + path, width=390, scheme=scheme)
        pipeline = await broker.publish(key)
        auditor = await broker.worker("operator", serve=True, auditor=True)
        cheat = FakeWorker(broker.session, broker.url, script=wrong_echo)
        await cheat.join(await broker.token("cheat"), device=HOSTILE)
        await cheat.connect(serve=True)
        await broker.submit(key, pipeline)
        while (await cheat.expect(Settled)).verdict != "rejected":
            pass
        await broker.tick()
        for path, width, scheme in product(paths_of(broker, cheat, pipeline), WIDTHS, ("light", "dark")):
            await look(tab, broker.url + path, width=width, scheme=scheme)
        for worker in (auditor, cheat):
            await worker.disconnect()


async def test_a_page_changes_by_itself_and_says_when(tmp_path: Path) -> None:
    async with local_broker(tmp_path / "broker") as broker, chromium_tab(tmp_path / "profile") as tab:
        await tab.show(broker.url, width=1280, scheme="light")
        worker = await broker.worker("late")
        shown = """new Promise(found => {
          const look = () => document.body.textContent.includes('late-device')
            ? found(document.getElementById('live').textContent) : requestAnimationFrame(look);
          look();
        })"""
        assert await tab.evaluate(shown) == "Live"
        await tab.show(f"{broker.url}/workers/{worker.id}", width=1280, scheme="light")
        spoken, exact = await tab.evaluate(
            "(time => [time.textContent, time.title])(document.querySelector('time'))"
        )
        assert spoken == "just now"
        assert exact.endswith(" UTC")
        await worker.disconnect()
