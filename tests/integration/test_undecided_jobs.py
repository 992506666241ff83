"""Nothing of an undecided job leaves the broker: not its outcome, nor the purposes and workers of its leases.

Every route of the application is asked in every role, so a route that is added is asked as well.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import msgspec
import pytest

from tradepost.content import add_bytes
from tradepost.errors import RunnerFailed
from tradepost.protocol import (
    Acknowledged,
    GiveBack,
    GiveBackReason,
    Grant,
    JobView,
    Settled,
)
from tradepost_broker.market.model.entities import LeasePurpose
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.reporting import standings
from tradepost_broker.reporting.views import Explanation
from tradepost_broker.testing import FakeWorker, LocalBroker, local_broker
from tradepost_broker.testing.fake_worker import echo
from tradepost_broker.testing.sample_pipeline import sample_input
from tradepost_broker.web import pages
from tradepost_broker.web.endpoints import Endpoint
from tradepost_reputation.dashboard import DashboardView, WorkerView

OUTPUT = echo(sample_input())
OUTPUT_CID = str(add_bytes(OUTPUT, put=None))
DECOY = OUTPUT + b"\0"
DECOY_CID = str(add_bytes(DECOY, put=None))
#: Requests that end the job, submit one, or open a stream. Streams have tests of their own.
CHANGES = {("DELETE", "/v1/jobs/{job}"), ("POST", "/v1/jobs"), ("GET", "/v1/worker"), ("GET", "/v1/client")}


@dataclass(frozen=True)
class Answer:
    """What one request gave, as text."""

    request: str
    status: int
    headers: str
    body: str

    def __contains__(self, text: str) -> bool:
        return text in self.body or text in self.headers


@dataclass
class Scene:
    """A broker with a job, who is who, and the leases that were granted."""

    broker: LocalBroker
    job: str
    pipeline: str
    keys: dict[str, str]
    workers: dict[str, FakeWorker]
    grants: list[Grant] = field(default_factory=list)

    def roles(self) -> dict[str, str]:
        """The `Authorization` header of each role."""
        leases = {f"worker of {grant.lease}": f"Lease {grant.nonce.hex()}" for grant in self.grants}
        bearers = {name: f"Bearer {key}" for name, key in self.keys.items()}
        return {"anonymous": "", "operator": f"Bearer {self.broker.running.parts.operator_token}"} | (
            bearers | leases
        )

    def paths(self, endpoint: Endpoint) -> Iterator[str]:
        """The endpoint's path with each thing there is, without the output's own CID."""
        known = {
            "job": [self.job],
            "lease": [f"{self.job}.{attempt}" for attempt in (1, 2, 3)],
            "worker": [worker.id for worker in self.workers.values()],
            "pipeline": [DECOY_CID, self.pipeline],
            "cid": [DECOY_CID, str(add_bytes(sample_input(), put=None))],
            "path": ["x"],
            "level": ["0", "entries"],
            "tile": ["000.p/1"],
        }
        names = re.findall(r"{(\w+)}", endpoint.path)
        for values in product(*(known[name] for name in names)):
            path = endpoint.path
            for name, value in zip(names, values, strict=True):
                path = path.replace(f"{{{name}}}", value)
            yield path
            if endpoint.method == "GET":
                yield path + "?limit=1000&wait_s=0&fields=all"

    async def ask(self, method: str, path: str, authorization: str, body: bytes | None = None) -> Answer:
        """The broker's answer to one request."""
        headers = {"Authorization": authorization} if authorization else {}
        async with self.broker.session.request(
            method, f"{self.broker.url}{path}", headers=headers, data=body, allow_redirects=False
        ) as response:
            text = (await response.read()).decode("latin-1")
            return Answer(f"{method} {path}", response.status, str(dict(response.headers)), text)

    async def walk(self) -> list[Answer]:
        """The answers of all routes to all roles; bodies are not what the routes want."""
        answers = []
        for endpoint, authorization in product(self.broker.running.parts.endpoints, self.roles().values()):
            if (endpoint.method, endpoint.path) in CHANGES:
                continue
            answers += [await self.ask(endpoint.method, path, authorization) for path in self.paths(endpoint)]
        assert len({answer.request.partition("?")[0] for answer in answers}) > 40
        return answers


def assert_silent(scene: Scene, answers: list[Answer]) -> None:
    """No answer has the outcome; none that mentions the job has its workers or their leases' purposes."""
    outcome = (OUTPUT_CID, hashlib.sha256(OUTPUT).hexdigest(), OUTPUT.decode("latin-1"))
    for answer in answers:
        for secret in outcome:
            assert secret not in answer, f"{answer.request} tells the outcome: {answer.body[:500]}"
        if scene.job not in answer.body and scene.job[:8] + "…" not in answer.body:
            continue
        for name, worker in scene.workers.items():
            assert worker.id not in answer, (
                f"{answer.request} names {name} beside the job: {answer.body[:900]}"
            )
        purposes = "|".join(LeasePurpose)
        found = re.search(rf"\b({purposes})\b", answer.body)
        assert not found, f"{answer.request} tells a purpose: {answer.body[:900]}"


@asynccontextmanager
async def scene_of(
    path: Path, *, confidence: float = 0.9, policy: MarketPolicy | None = None, auditor: bool = False
) -> AsyncIterator[Scene]:
    """A job that `a` and `b` can run; the worker `spy` and the account `bob` have no part in it."""
    async with local_broker(path, policy=policy) as broker:
        keys = {"alice": await broker.account("alice"), "bob": await broker.account("bob")}
        pipeline = await broker.publish(keys["alice"])
        workers = {name: await broker.worker(name) for name in ("a", "b")}
        workers["spy"] = await broker.worker("spy", price=200_000)
        if auditor:
            workers["auditor"] = await broker.worker("operator", auditor=True)
        job = (await broker.submit(keys["alice"], pipeline, confidence=confidence)).job
        scene = Scene(broker, job, pipeline, keys, workers)
        try:
            yield scene
        finally:
            for worker in workers.values():
                await worker.disconnect()


async def holder(scene: Scene) -> str:
    """Which of `a` and `b` has the job's one lease."""
    arrivals = {
        asyncio.create_task(scene.workers[name].arrival(Grant), name=name): name for name in ("a", "b")
    }
    done, waiting = await asyncio.wait(arrivals, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    return arrivals[done.pop()]


async def grant_of(scene: Scene, name: str) -> Grant:
    grant = await scene.workers[name].expect(Grant)
    scene.grants.append(grant)
    return grant


async def deliver(scene: Scene, name: str) -> None:
    """Have a worker deliver its lease, until the broker has it durably."""
    worker = scene.workers[name]
    await worker.answer(await grant_of(scene, name))
    assert (await worker.expect(Acknowledged)).problem is None


async def test_no_route_tells_any_role_of_a_result_that_waits_for_another(tmp_path: Path) -> None:
    async with scene_of(tmp_path) as scene:
        await grant_of(scene, "b")
        await deliver(scene, "a")
        assert_silent(scene, await scene.walk())


async def test_no_route_tells_any_role_who_lost_a_lease_of_an_undecided_job(tmp_path: Path) -> None:
    async with scene_of(tmp_path) as scene:
        lost = await grant_of(scene, "b")
        problem = RunnerFailed(f"it is {OUTPUT_CID}").to_problem()
        await scene.workers["b"].send(
            GiveBack(lease=lost.lease, reason=GiveBackReason.FAILED, problem=problem)
        )
        await scene.workers["b"].expect(Acknowledged)
        await deliver(scene, "a")
        assert_silent(scene, await scene.walk())


async def test_a_job_that_is_cancelled_after_a_delivery_never_tells_the_outcome(tmp_path: Path) -> None:
    async with scene_of(tmp_path) as scene:
        await deliver(scene, "a")
        await scene.broker.call("DELETE", f"/v1/jobs/{scene.job}", key=scene.keys["alice"], reply=JobView)
        for answer in await scene.walk():
            assert OUTPUT_CID not in answer, answer.request
            assert hashlib.sha256(OUTPUT).hexdigest() not in answer, answer.request


async def test_a_spot_check_cannot_be_seen_before_it_is_decided(tmp_path: Path) -> None:
    policy = MarketPolicy(audit_rate=1.0)
    async with scene_of(tmp_path, confidence=0.5, policy=policy, auditor=True) as scene:
        await deliver(scene, await holder(scene))
        await grant_of(scene, "auditor")
        audit = scene.grants[-1].lease
        for answer in await scene.walk():
            if audit not in answer.request:
                assert audit not in answer, answer.request
            if scene.job in answer.body:
                assert not re.search(r"\baudit\b", answer.body), f"{answer.request}: {answer.body[:900]}"
        metrics = (await scene.ask("GET", "/metrics", "")).body
        assert "tradepost_leases_granted_total 1.0" in metrics.splitlines()


async def test_the_outputs_of_private_jobs_stay_their_submitters(tmp_path: Path) -> None:
    async with scene_of(tmp_path, confidence=0.5) as scene:
        name = await holder(scene)
        await deliver(scene, name)
        await scene.workers[name].expect(Settled)
        alice = f"Bearer {scene.keys['alice']}"
        for endpoint, authorization in product(scene.broker.running.parts.endpoints, scene.roles().values()):
            if authorization == alice or (endpoint.method, endpoint.path) in CHANGES:
                continue
            for path in scene.paths(endpoint):
                answer = await scene.ask(endpoint.method, path, authorization)
                assert OUTPUT_CID not in answer, f"{path} {authorization}"
        own: Explanation = await scene.broker.call(
            "GET", f"/v1/jobs/{scene.job}/explanation", key=scene.keys["alice"], reply=Explanation
        )
        assert [lease.outcome for lease in own.leases] == [OUTPUT_CID]
        view: DashboardView = await scene.broker.call("GET", "/v1/dashboard.json", reply=DashboardView)
        assert [lease.worker for lease in view.leases] == [scene.workers[name].id], "a match is public then"


async def test_asking_for_the_output_is_like_asking_for_what_is_nowhere(tmp_path: Path) -> None:
    async with scene_of(tmp_path) as scene:
        grant = await grant_of(scene, "a")
        await scene.workers["a"].upload_output(grant, OUTPUT)
        await scene.workers["a"].answer(grant)
        await scene.workers["a"].expect(Acknowledged)
        for endpoint, authorization in product(scene.broker.running.parts.endpoints, scene.roles().values()):
            if "{cid}" not in endpoint.path:
                continue
            for template in scene.paths(endpoint):
                if DECOY_CID not in template:
                    continue
                real = await scene.ask(
                    endpoint.method, template.replace(DECOY_CID, OUTPUT_CID), authorization, OUTPUT
                )
                decoy = await scene.ask(endpoint.method, template, authorization, DECOY)
                assert real.status == decoy.status, template
                assert _blind(real.body, OUTPUT_CID, OUTPUT) == _blind(decoy.body, DECOY_CID, DECOY), template
                assert _names(real.headers) == _names(decoy.headers), template


async def test_a_leases_address_does_not_tell_whether_it_exists(tmp_path: Path) -> None:
    async with scene_of(tmp_path) as scene:
        await grant_of(scene, "a")
        await grant_of(scene, "b")
        for method, authorization in product(("GET", "PUT"), scene.roles().values()):
            answers: dict[tuple[int, str], int] = {}
            for attempt in (1, 2, 3, 99):
                if authorization == scene.roles().get(f"worker of {scene.job}.{attempt}"):
                    continue
                path = f"/v1/leases/{scene.job}.{attempt}/blocks/{DECOY_CID}"
                answer = await scene.ask(method, path, authorization, DECOY)
                answers[answer.status, answer.body.replace(f"{scene.job}.{attempt}", "")] = attempt
            assert len(answers) == 1, (method, authorization, answers)


async def test_frames_to_a_worker_tell_nothing_of_its_partner(tmp_path: Path) -> None:
    async with scene_of(tmp_path) as scene:
        grants = [await grant_of(scene, "a"), await grant_of(scene, "b")]
        for name, other in (("a", "b"), ("b", "a")):
            grant = next(one for one in grants if one.lease in scene.workers[name].unfinished)
            text = str(msgspec.structs.asdict(grant))
            assert scene.workers[other].id not in text
            assert not re.search("|".join(LeasePurpose), text)
        assert msgspec.structs.asdict(grants[0]).keys() == msgspec.structs.asdict(grants[1]).keys()


async def test_the_dashboards_version_changes_only_with_what_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (pages, standings):
        monkeypatch.setattr(module, "CACHE_S", 0.0)  # so that no older view hides a change
    async with scene_of(tmp_path) as scene:
        grant = await grant_of(scene, "a")
        await grant_of(scene, "b")

        async def version() -> str:
            return (await scene.ask("GET", "/v1/dashboard.json?fields=version", "")).body

        before = await version()
        await scene.workers["a"].answer(grant)
        await scene.workers["a"].expect(Acknowledged)
        assert await version() == before


async def test_metrics_do_not_move_before_the_job_is_decided(tmp_path: Path) -> None:
    async with scene_of(tmp_path) as scene:
        grant = await grant_of(scene, "b")

        async def counters() -> list[str]:
            text = (await scene.ask("GET", "/metrics", "")).body
            return [line for line in _of_market(text) if not line.startswith("#")]

        before = await counters()
        await deliver(scene, "a")
        await scene.workers["b"].send(
            GiveBack(
                lease=grant.lease,
                reason=GiveBackReason.PREEMPTED,
                problem=RunnerFailed("its owner wants it").to_problem(),
            )
        )
        await scene.workers["b"].expect(Acknowledged)
        await scene.workers["b"].expect(Grant)
        assert await counters() == before


async def test_an_invalid_receipt_shows_nowhere_before_the_job_is_decided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No finding, count, score or standing moves, on any route, for any role."""
    for module in (pages, standings):
        monkeypatch.setattr(module, "CACHE_S", 0.0)  # so that no older view hides a change
    async with scene_of(tmp_path) as scene:
        await grant_of(scene, "a")
        grant = await grant_of(scene, "b")
        before = await _about_workers(scene)
        worker = scene.workers["b"]
        frame = worker.delivery(grant, await worker.fetch_input(grant))
        forged = msgspec.structs.replace(frame.receipt, signature=frame.receipt.signature[:-1] + b"\x00")
        await worker.send(msgspec.structs.replace(frame, receipt=forged))
        assert (await worker.expect(Acknowledged)).problem is not None
        assert await _about_workers(scene) == before
        await scene.broker.call("DELETE", f"/v1/jobs/{scene.job}", key=scene.keys["alice"], reply=JobView)
        after = await _about_workers(scene)
        view = msgspec.json.decode(after["anonymous", f"/v1/workers/{worker.id}"], type=WorkerView)
        assert view.evidence_counts == {"failed": 1}
        assert 'tradepost_evidence_total{kind="failed"} 1.0' in after["anonymous", "/metrics"]
        changed = {
            path
            for (role, path), text in after.items()
            if role == "anonymous" and before.get(("anonymous", path)) != text
        }
        assert {"/v1/workers", f"/v1/workers/{worker.id}", f"/workers/{worker.id}", "/metrics"} <= changed


async def _about_workers(scene: Scene) -> dict[tuple[str, str], str]:
    """What every role reads, on all routes, of workers and in the metrics."""
    found = {}
    for endpoint, (role, authorization) in product(
        scene.broker.running.parts.endpoints, scene.roles().items()
    ):
        if endpoint.method != "GET" or (endpoint.method, endpoint.path) in CHANGES:
            continue
        for path in scene.paths(endpoint):
            answer = await scene.ask("GET", path, authorization)
            names = any(worker.id in answer for worker in scene.workers.values())
            if names or endpoint.path == "/metrics":
                found[role, path] = "\n".join(_of_market(answer.body))
    return found


def _of_market(text: str) -> list[str]:
    """The lines without the metrics of the machine: batches and stalls come at any time."""
    return [line for line in text.splitlines() if not re.search("_batch_|_loop_stall_|_created", line)]


def _blind(text: str, cid: str, own: bytes) -> str:
    """The text without the CID that was asked for, and without what the role itself has put there."""
    return text.replace(cid, "CID").replace(own.decode("latin-1"), "OWN")


def _names(headers: str) -> list[str]:
    return sorted(re.findall(r"'([A-Za-z-]+)':", headers))
