"""The demo's steps: start a market, classify digits through it, and collect the facts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Final

import aiohttp
import numpy as np

from tradepost.broker_url import raise_for_problem
from tradepost.client.async_client import AsyncClient
from tradepost.client.results import Result
from tradepost.demo.report import Report, WorkerReport, percentile_ms
from tradepost.errors import TradepostError
from tradepost.money import to_microcredits
from tradepost.pipeline.tensors import TensorDocument, decode
from tradepost.testing.local_market import LocalMarket, RunningWorker, WorkerPlan

#: What the submitter offers for one digit, in credits, and how sure it wants to be.
MAX_PRICE: Final = "0.02"
CONFIDENCE: Final = 0.97
CHEATING_MODULE: Final = "tradepost_worker.testing.cheating"
_NAMES: Final = ("ada", "grace", "edsger", "barbara", "donald", "radia", "leslie", "frances")
#: Jobs in flight at once: enough to keep every worker busy, few enough that latency means something.
_WINDOW: Final = 16
#: How often it is looked whether the cheaters are caught.
_LOOK_S: Final = 0.25
#: If no evidence comes for this time, waiting alone will bring none.
_QUIET_S: Final = 60.0
#: Further jobs, to catch a cheater: so many at once, and so often at most.
_ROUND_JOBS: Final = 8
_MORE_ROUNDS_MAX: Final = 12


@dataclass(frozen=True, kw_only=True)
class DemoPlan:
    """The numbers of jobs, honest workers and cheaters, and an optional folder for the state."""

    jobs: int
    workers: int
    cheaters: int
    folder: Path | None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One job's end: the true digit, and its result or its error."""

    index: int
    result: Result | None
    error: TradepostError | None


def plan_workers(plan: DemoPlan) -> list[WorkerPlan]:
    """Honest workers at rising prices, cheaters that underbid them all, and two owners' auditors."""
    honest = [
        WorkerPlan(name=_name(n), owner=_name(n), price=f"{0.0015 + 0.0005 * n:.4f}")
        for n in range(plan.workers)
    ]
    cheating = [
        WorkerPlan(name=f"mallory-{n}", owner=f"mallory-{n}", price="0.0005", module=CHEATING_MODULE)
        for n in range(1, plan.cheaters + 1)
    ]
    # One auditor alone proves no fraud: another owner's must agree with it.
    auditors = [
        WorkerPlan(name=name, owner=owner, price="0.001", stake="0", auditor=True)
        for name, owner in (("auditor", "operator"), ("second-auditor", "second-operator"))
    ]
    return [*honest, *cheating, *auditors]


def run_demo(
    plan: DemoPlan,
    *,
    on_step: Callable[[str], None],
    on_answer: Callable[[int], None],
    on_report: Callable[[Report], None],
) -> Report:
    """Run the whole demo; `on_report` is called while the market still stands."""
    market = LocalMarket(workers=plan_workers(plan), folder=plan.folder, on_step=on_step)
    data = files("tradepost.demo") / "data"
    held_out = decode((data / "held_out.safetensors").read_bytes())
    with market:
        on_step("Publishing the signed pipeline")
        with as_file(data) as folder:
            pipeline = market.publish(folder / "pipeline.toml")
        report = asyncio.run(_classify(market, pipeline, held_out, plan, on_step, on_answer))
        on_report(report)
    return report


async def _classify(
    market: LocalMarket,
    pipeline: str,
    held_out: TensorDocument,
    plan: DemoPlan,
    on_step: Callable[[str], None],
    on_answer: Callable[[int], None],
) -> Report:
    on_step("Classifying digits")
    async with AsyncClient(market.url, api_key=market.api_key) as client:
        asking = Asking(client, pipeline, held_out)
        await asking.ask(plan.jobs, on_answer=on_answer)
        async with aiohttp.ClientSession() as session:

            async def look() -> list[WorkerReport]:
                return [await _standing(session, market, worker) for worker in market.running]

            standings = await catch_cheaters(look, asking.ask, on_step=on_step)
    return _report(market, pipeline, held_out, asking.answers, standings)


class Asking:
    """Asks the market about digits, one after the other in the order of the data, `_WINDOW` at once."""

    def __init__(self, client: AsyncClient, pipeline: str, held_out: TensorDocument) -> None:
        self._client = client
        self._pipeline = pipeline
        self._images = held_out["images"]
        self._slots = asyncio.Semaphore(_WINDOW)
        self._asked = 0
        self.answers: list[Answer] = []

    async def ask(self, count: int, *, on_answer: Callable[[int], None] = lambda _: None) -> None:
        """Ask about so many more digits, and wait for the answers."""
        first, self._asked = self._asked, self._asked + count
        await asyncio.gather(*(self._ask(index, on_answer) for index in range(first, self._asked)))

    async def _ask(self, index: int, on_answer: Callable[[int], None]) -> None:
        image = self._images[index % len(self._images)]
        async with self._slots:
            try:
                handle = await self._client.submit(
                    self._pipeline, {"image": image}, max_price=MAX_PRICE, confidence=CONFIDENCE
                )
                answer = Answer(index=index, result=await handle.result(), error=None)
            except TradepostError as error:
                answer = Answer(index=index, result=None, error=error)
        self.answers.append(answer)
        on_answer(len(self.answers))


async def catch_cheaters(
    look: Callable[[], Awaitable[list[WorkerReport]]],
    ask: Callable[[int], Awaitable[None]],
    *,
    on_step: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> list[WorkerReport]:
    """How the workers stand, as `look` gives it, when every cheater is caught.

    A cheater is caught when auditors of two owners have run one of its jobs twice each, which may be after
    the last answer. One that no reference run has contradicted so far had too few leases, or the auditors too
    much to do: then more digits are asked about. So they are if nothing new is found for `_QUIET_S`. After
    `_MORE_ROUNDS_MAX` such rounds the report says who was not caught.
    """
    rounds, found, found_at = 0, None, clock()
    on_step("Waiting for the last reference runs")
    while True:
        standings = await look()
        at_large = [worker for worker in standings if worker.cheats and not worker.caught]
        if not at_large:
            return standings
        evidence = [worker.evidence for worker in at_large]
        if evidence != found:
            found, found_at = evidence, clock()
        is_quiet = clock() - found_at >= _QUIET_S
        if rounds < _MORE_ROUNDS_MAX and (is_quiet or not all(worker.is_accused for worker in at_large)):
            rounds += 1
            on_step(f"Classifying {_ROUND_JOBS} more digits, to catch each cheater")
            await ask(_ROUND_JOBS)
            found_at = clock()
        elif is_quiet:
            return standings
        else:
            await sleep(_LOOK_S)


async def _standing(
    session: aiohttp.ClientSession, market: LocalMarket, worker: RunningWorker
) -> WorkerReport:
    async with session.get(f"{market.url}/v1/workers/{worker.id}") as response:
        await raise_for_problem(response)
        view: dict[str, Any] = await response.json()
    return WorkerReport.from_view(
        view, name=worker.plan.name, price=worker.plan.price, cheats=worker.plan.module is not None
    )


def _report(
    market: LocalMarket,
    pipeline: str,
    held_out: TensorDocument,
    answers: list[Answer],
    standings: list[WorkerReport],
) -> Report:
    count = len(held_out["labels"])
    results = [(answer.index % count, answer.result) for answer in answers if answer.result is not None]
    said = np.array([int(result["index"].flat[0]) for _, result in results], dtype=np.int64)
    asked = np.array([index for index, _ in results], dtype=np.int64)
    seconds = [result.seconds for _, result in results]
    cheaters = [worker for worker in standings if worker.cheats]
    return Report(
        jobs=len(answers),
        answered=len(results),
        accuracy=float(np.mean(said == held_out["labels"][asked])) if results else 0.0,
        # The model errs now and then; an accepted answer is wrong when it is not what the model says.
        wrong_accepted=int(np.sum(said != held_out["predicted"][asked])),
        cheaters=len(cheaters),
        cheaters_caught=sum(worker.caught for worker in cheaters),
        latency_p50_ms=percentile_ms(seconds, 50),
        latency_p95_ms=percentile_ms(seconds, 95),
        paid_microcredits=sum(to_microcredits(result.price) for _, result in results),
        replicas_per_job=sum(len(result.receipts) for _, result in results) / max(1, len(results)),
        workers=standings,
        pipeline=pipeline,
        url=market.url,
        errors=[answer.error.diagnostics() for answer in answers if answer.error is not None][:5],
    )


def _name(n: int) -> str:
    return _NAMES[n] if n < len(_NAMES) else f"honest-{n + 1}"
