"""The dashboard shows every score with its evidence, live, and nothing that a stranger wrote as markup."""

from __future__ import annotations

import shutil
import subprocess
from html.parser import HTMLParser
from importlib.resources import as_file, files
from pathlib import Path
from urllib.parse import quote

import pytest
from markupsafe import escape

from tradepost.protocol import Settled
from tradepost.receipts import Failed
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.reporting import standings
from tradepost_broker.reporting.views import Explanation
from tradepost_broker.testing import FakeWorker, LocalBroker, local_broker, wrong_echo
from tradepost_broker.testing.sample_pipeline import SamplePipeline, sample_input
from tradepost_broker.web import pages
from tradepost_reputation.dashboard import (
    CONTENT_SECURITY_POLICY,
    DashboardView,
    PipelinePageView,
    PipelinesPageView,
    WorkerPageView,
    WorkersPageView,
)

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
    for path in ("/", "/workers", f"/workers/{worker.id}"):
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
    assert "Results a job, mean" in text
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


async def test_the_list_of_workers_goes_on_page_by_page(broker: LocalBroker) -> None:
    workers = [await broker.worker(owner, connect=False) for owner in ("ann", "ben", "cid")]
    seen: list[str] = []
    after = ""
    while True:
        query = f"?sort=owner&limit=1&after={after}"
        view: WorkersPageView = await broker.call(
            "GET", f"/v1/dashboard/workers.json{query}", reply=WorkersPageView
        )
        assert view.found == 3
        seen += [one.worker for one in view.workers]
        text = await page(broker, f"/workers{query}")
        assert f'href="/workers/{view.workers[0].worker}"' in text
        assert ('rel="next"' in text) == bool(view.after)
        if not view.after:
            break
        after = view.after
    assert seen == [worker.id for worker in workers]
    found: WorkersPageView = await broker.call(
        "GET", "/v1/dashboard/workers.json?find=BEN-dev", reply=WorkersPageView
    )
    assert [one.worker for one in found.workers] == [workers[1].id]
    assert "No worker matches" in await page(broker, "/workers?find=nobody")


@pytest.mark.parametrize(
    "query", ["standing=rich", "sort=score", "after=nobody", "limit=0", "limit=201", f"find={'x' * 65}"]
)
async def test_a_list_refuses_what_it_does_not_know(broker: LocalBroker, query: str) -> None:
    for path in ("/workers", "/v1/dashboard/workers.json"):
        async with broker.session.get(f"{broker.url}{path}?{query}") as response:
            assert response.status == 400


async def test_evidence_goes_on_page_by_page_and_draws_the_score(tmp_path: Path) -> None:
    async with local_broker(tmp_path, policy=MarketPolicy(audit_rate=0.0)) as broker:
        key = await broker.account()
        pipeline = await broker.publish(key)
        workers = [await broker.worker(owner, serve=True) for owner in ("a", "b")]
        for number in range(52):
            job = await broker.submit(key, pipeline, confidence=0.9, input=sample_input(float(number)))
            await broker.result(key, job.job)
        await broker.tick()
        path = f"/v1/dashboard/workers/{workers[0].id}.json"
        first: WorkerPageView = await broker.call("GET", path, reply=WorkerPageView)
        last: WorkerPageView = await broker.call("GET", f"{path}?before={first.before}", reply=WorkerPageView)
        assert len(first.worker.evidence) == 50
        assert last.before == ""
        leases = [one.lease for one in (*first.worker.evidence, *last.worker.evidence)]
        assert len(set(leases)) == len(leases) == sum(first.worker.evidence_counts.values())
        [history] = first.history
        assert history.points[-1].score == first.worker.score
        assert [one.score for one in history.points] == sorted(one.score for one in history.points)
        text = await page(broker, f"/workers/{workers[0].id}")
        assert "It is connected" in text
        assert f"before={quote(first.before)}" in text
        assert "svg" in Elements(text).tags
        for wrong in ("", "~", "1e9~x", "nan~x", "\u0661~x", "1~" + "x" * 300):
            async with broker.session.get(f"{broker.url}{path}", params={"before": wrong}) as response:
                assert response.status == 400
        for worker in workers:
            await worker.disconnect()


async def test_a_pipeline_shows_its_stages_signers_and_recent_prices(broker: LocalBroker) -> None:
    key = await broker.account()
    sample = SamplePipeline(name="resize")
    cid = await broker.publish(key, sample)
    empty = await page(broker, f"/pipelines/{cid}")
    assert "None of the newest ended jobs" in empty
    worker = await broker.worker(serve=True)
    other = await broker.publish(key, SamplePipeline(name="other"))
    job = (await broker.submit(key, other)).job
    view = await broker.result(key, job)
    shown: PipelinePageView = await broker.call(
        "GET", f"/v1/dashboard/pipelines/{other}.json", reply=PipelinePageView
    )
    assert shown.prices is None or shown.prices.median_microcredits == view.price_microcredits
    assert [(stage.name, stage.kind, stage.sources) for stage in shown.stages] == [
        ("scale", "kernel", ("input",)),
        ("double", "model", ("scale",)),
    ]
    text = await page(broker, f"/pipelines/{cid}")
    assert sample.key.public_key.id in text
    assert "double takes scale" in text
    listed: PipelinesPageView = await broker.call(
        "GET", "/v1/dashboard/pipelines.json?find=resi", reply=PipelinesPageView
    )
    assert [one.pipeline for one in listed.pipelines] == [cid]
    assert f'href="/pipelines/{cid}"' in await page(broker, "/pipelines")
    for path in ("/pipelines?after=nothing", "/pipelines?limit=0", f"/pipelines?find={'x' * 65}"):
        async with broker.session.get(f"{broker.url}{path}") as response:
            assert response.status == 400
    async with broker.session.get(f"{broker.url}/pipelines/unknown") as response:
        assert response.status == 404
    await worker.disconnect()
