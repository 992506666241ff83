"""The dashboard shows every score with its evidence, live, and nothing that a stranger wrote as markup."""

from __future__ import annotations

import shutil
import subprocess
from html.parser import HTMLParser
from importlib.resources import as_file, files
from pathlib import Path

import pytest
from markupsafe import escape

from tradepost.protocol import Settled
from tradepost.receipts import Failed
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.reporting import standings
from tradepost_broker.reporting.views import Explanation
from tradepost_broker.testing import FakeWorker, LocalBroker, local_broker, wrong_echo
from tradepost_broker.web import pages
from tradepost_reputation.dashboard import CONTENT_SECURITY_POLICY, DashboardView

HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)>\" onmouseover=\"alert(2)"


class Elements(HTMLParser):
    """The tags and attributes of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


async def page(broker: LocalBroker, path: str) -> str:
    await broker.tick()  # a result may be read from the database a moment before the dashboard has it
    async with broker.session.get(f"{broker.url}{path}") as response:
        assert response.status == 200
        assert response.headers["Content-Security-Policy"] == CONTENT_SECURITY_POLICY
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        return await response.text()


async def test_every_string_from_a_stranger_is_escaped(broker: LocalBroker) -> None:
    worker = FakeWorker(broker.session, broker.url)
    await worker.join(await broker.token(), device=HOSTILE)
    await worker.connect()
    for path in ("/", f"/workers/{worker.id}"):
        text = await page(broker, path)
        elements = Elements(text)
        assert HOSTILE not in text
        assert str(escape(HOSTILE)) in text
        assert "img" not in elements.tags
        assert elements.tags.count("script") == 1
        assert not [name for name, _ in elements.attributes if name.startswith("on") or name == "style"]
    await worker.disconnect()


async def test_a_failures_detail_is_for_the_submitter_alone(broker: LocalBroker) -> None:
    def fail(_: bytes) -> Failed:
        return Failed(stage="scale", code="kernel-trap", detail=HOSTILE)

    key = await broker.account()
    workers = [await broker.worker(owner, serve=True, script=fail) for owner in ("a", "b")]
    job = (await broker.submit(key, await broker.publish(key), confidence=0.9)).job
    await broker.result(key, job)
    own: Explanation = await broker.call("GET", f"/v1/jobs/{job}/explanation", key=key, reply=Explanation)
    assert HOSTILE in own.problem
    for path in ("/", *(f"/workers/{worker.id}" for worker in workers)):
        text = await page(broker, path)
        assert HOSTILE not in text
        assert str(escape(HOSTILE)) not in text
        assert "img" not in Elements(text).tags
    for worker in workers:
        await worker.disconnect()


async def test_a_score_opens_the_evidence_behind_it(tmp_path: Path) -> None:
    async with local_broker(tmp_path, policy=MarketPolicy(audit_rate=1.0, references_to_expel=1)) as broker:
        key = await broker.account()
        pipeline = await broker.publish(key)
        auditor = await broker.worker("operator", serve=True, auditor=True)
        cheat = await broker.worker("cheat", serve=True, script=wrong_echo)
        job = (await broker.submit(key, pipeline)).job
        while (await cheat.expect(Settled)).verdict != "rejected":
            pass
        market = await page(broker, "/")
        assert f'href="/workers/{cheat.id}"' in market
        assert "expelled" in market
        assert '<strong class="bad">5</strong>' in market
        evidence = await page(broker, f"/workers/{cheat.id}")
        assert "audit failed" in evidence
        assert job in evidence
        assert "Fraud was proven" in evidence
        for worker in (auditor, cheat):
            await worker.disconnect()


async def test_an_allocation_explains_itself(broker: LocalBroker) -> None:
    key = await broker.account()
    workers = [await broker.worker(f"owner-{price}", price=price, serve=True) for price in (1000, 9000)]
    await broker.result(key, (await broker.submit(key, await broker.publish(key))).job)
    text = await page(broker, "/")
    assert workers[0].id in text
    assert workers[1].id in text
    assert "won" in text
    for worker in workers:
        await worker.disconnect()


async def test_the_json_changes_its_version_with_its_content(
    broker: LocalBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (pages, standings):
        monkeypatch.setattr(module, "CACHE_S", 0.0)
    first: DashboardView = await broker.call("GET", "/v1/dashboard.json", reply=DashboardView)
    same: dict[str, int] = await broker.call("GET", "/v1/dashboard.json?fields=version", reply=dict[str, int])
    assert same == {"version": first.version}
    worker = await broker.worker()
    changed: dict[str, int] = await broker.call(
        "GET", "/v1/dashboard.json?fields=version", reply=dict[str, int]
    )
    assert changed["version"] != first.version
    await worker.disconnect()


async def test_nothing_is_loaded_from_elsewhere(broker: LocalBroker) -> None:
    elements = Elements(await page(broker, "/"))
    loaded = [value or "" for name, value in elements.attributes if name in ("src", "href")]
    assert loaded
    assert all(value.startswith(("/", "#")) and not value.startswith("//") for value in loaded)
    assert "default-src 'none'" in CONTENT_SECURITY_POLICY
    for name, media in (
        ("dashboard.css", "text/css"),
        ("dashboard.js", "text/javascript"),
        ("dashboard.svg", "image/svg+xml"),
    ):
        async with broker.session.get(f"{broker.url}/{name}") as response:
            assert (response.status, response.content_type) == (200, media)
            text = await response.text()
            assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


def test_the_script_parses() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no `node` on the path: nothing to parse it with")
    with as_file(files("tradepost_reputation.dashboard") / "static" / "dashboard.js") as script:
        subprocess.run([node, "--check", script], check=True)
