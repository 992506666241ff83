"""Restarts of both sides under load: no honest worker has evidence against it, no submitter loses a job.

One round restarts the broker and one worker, each with SIGKILL or SIGTERM, while an SDK client submits.
A lease that is lost may become evidence only later (`blame_at`, `pending_evidence`): none may be left.
"""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from enum import StrEnum, auto
from pathlib import Path

import numpy as np
import pytest

from counting_kernel import counting_kernel
from tradepost import Client
from tradepost.client.results import Result
from tradepost.protocol import JobStatus
from tradepost.testing import LocalMarket, RunningWorker, WorkerPlan
from tradepost_broker.market.model.entities import Evidence, Job, Lease, LeaseState
from tradepost_broker.storage import database
from tradepost_broker.storage.store import Reader

pytestmark = pytest.mark.acceptance

#: Two rounds restart each side by SIGKILL and by SIGTERM; `make restarts` asks for more, in other orders.
ROUNDS_MIN = 2
ROUNDS = int(os.environ.get("ROUNDS", f"{ROUNDS_MIN}"))
SEED = int(os.environ.get("SEED", "0"))
SUBMITTERS = 3
#: Jobs that end between two restarts, at most, where there are more rounds.
JOBS_MAX = 4
WAIT_S_MAX = 300.0

#: About a twentieth of a second of work in each stage.
COUNT = 20_000_000
#: Two stages, so that a worker that is stopped gives back a receipt for the first one.
PIPELINE = """
name = "counting"
version = "1.0.0"
[inputs]
x = { dtype = "F32", shape = ["?"] }
[[stage]]
name = "first"
kernel = "counting.wasm"
inputs = { x = "input.x" }
outputs = ["x"]
fuel = 1_000_000_000
[[stage]]
name = "second"
kernel = "counting.wasm"
inputs = { x = "first.x" }
outputs = ["x"]
fuel = 1_000_000_000
[outputs]
x = "second.x"
[limits]
wall_ms = 600_000
"""


class Order(StrEnum):
    """How the two restarts of a round follow each other."""

    BROKER_FIRST = auto()
    WORKER_FIRST = auto()
    WORKER_WHILE_BROKER_IS_AWAY = auto()


class Load:
    """Submits jobs from several threads, each as soon as its last one has ended, until it is stopped."""

    def __init__(self, client: Client, pipeline: str) -> None:
        self._client = client
        self._pipeline = pipeline
        self._numbers = itertools.count()
        self._stopping = threading.Event()
        self._progress = threading.Condition()
        self.results: dict[int, Result] = {}
        self._pool = ThreadPoolExecutor(max_workers=SUBMITTERS)
        self._running = [self._pool.submit(self._submit_until_stopped) for _ in range(SUBMITTERS)]

    def wait_for_more(self, count: int) -> None:
        """Wait until `count` more jobs have ended. Raises what a submitter failed with."""
        with self._progress:
            wanted = len(self.results) + count
            assert self._progress.wait_for(
                lambda: len(self.results) >= wanted or any(one.done() for one in self._running), WAIT_S_MAX
            )
        if len(self.results) < wanted:
            self.stop()

    def stop(self) -> dict[int, Result]:
        """Submit no more, and wait for the rest. Raises what a submitter failed with."""
        self._stopping.set()
        self._pool.shutdown()
        for one in self._running:
            one.result()
        return self.results

    def _submit_until_stopped(self) -> None:
        try:
            while not self._stopping.is_set():
                n = next(self._numbers)
                result = self.submit(n)
                with self._progress:
                    self.results[n] = result
                    self._progress.notify_all()
        finally:
            with self._progress:
                self._progress.notify_all()

    def submit(self, n: int) -> Result:
        """The result of job number `n`; submitting it again gives that of the same job."""
        inputs = {"x": np.full(3, n, np.float32)}
        terms = {"max_price": "0.05", "confidence": 0.9, "patience_s": 600, "idempotency_key": f"job-{n}"}
        return self._client.submit(self._pipeline, inputs, **terms).result(timeout=WAIT_S_MAX)


def end_broker(market: LocalMarket, *, kill: bool) -> None:
    if kill:
        market.kill_broker()
    else:
        assert market.stop_broker() == 0


def end_worker(market: LocalMarket, worker: RunningWorker, *, kill: bool) -> None:
    if kill:
        market.kill_worker(worker)
    else:
        assert market.stop_worker(worker) == 0


def restart_broker(market: LocalMarket, *, kill: bool) -> None:
    end_broker(market, kill=kill)
    market.start_broker()


def restart_worker(market: LocalMarket, worker: RunningWorker, *, kill: bool) -> None:
    end_worker(market, worker, kill=kill)
    deadline_s = time.monotonic() + WAIT_S_MAX
    while market.view(worker)["connected"]:
        assert time.monotonic() < deadline_s
    market.wait_for_workers([market.resume_worker(worker)])


def restart_both(market: LocalMarket, worker: RunningWorker, *, kill_broker: bool, kill_worker: bool) -> None:
    end_broker(market, kill=kill_broker)
    end_worker(market, worker, kill=kill_worker)
    resumed = market.resume_worker(worker)
    market.start_broker()
    market.wait_for_workers([resumed])


def restart_all(market: LocalMarket, load: Load, *, rounds: int, seed: int) -> None:
    """Each side is restarted `rounds` times, by SIGKILL and by SIGTERM by turns."""
    rng = random.Random(seed)
    jobs_max = JOBS_MAX if rounds > ROUNDS_MIN else 1
    names: list[str] = []
    for round_ in range(rounds):
        names = names or rng.sample([worker.plan.name for worker in market.running], len(market.running))
        name = names.pop()
        worker = next(one for one in market.running if one.plan.name == name)
        order = rng.choice(list(Order))
        kill_broker, kill_worker = round_ % 2 == 0, (round_ + round_ // 2) % 2 == 1
        print(f"round {round_}: {order}, {name}, SIGKILL: broker {kill_broker}, worker {kill_worker}")
        load.wait_for_more(rng.randint(1, jobs_max))
        if order is Order.WORKER_WHILE_BROKER_IS_AWAY:
            restart_both(market, worker, kill_broker=kill_broker, kill_worker=kill_worker)
        elif order is Order.BROKER_FIRST:
            restart_broker(market, kill=kill_broker)
            load.wait_for_more(rng.randint(1, jobs_max))
            restart_worker(market, worker, kill=kill_worker)
        elif order is Order.WORKER_FIRST:
            restart_worker(market, worker, kill=kill_worker)
            load.wait_for_more(rng.randint(1, jobs_max))
            restart_broker(market, kill=kill_broker)
    market.wait_for_workers()
    load.wait_for_more(1)


def test_restarts_of_both_sides_under_load_blame_no_honest_worker(tmp_path: Path) -> None:
    print(f"ROUNDS={ROUNDS} SEED={SEED}")
    (tmp_path / "counting.wasm").write_bytes(counting_kernel(COUNT))
    (tmp_path / "pipeline.toml").write_text(PIPELINE)
    plans = [
        *(WorkerPlan(name=f"w{n}", owner=f"owner{n}", price=f"0.00{n}", capacity=2) for n in (1, 2, 3)),
        WorkerPlan(name="auditor", owner="operator", price="0.001", stake="0", auditor=True),
    ]
    with LocalMarket(workers=plans, folder=tmp_path / "market") as market:
        pipeline = market.publish(tmp_path / "pipeline.toml")
        with Client(market.url, api_key=market.api_key, give_up_s=WAIT_S_MAX) as client:
            funds = client.balance()
            scores = {worker.id: market.view(worker)["score"] for worker in market.running}
            load = Load(client, pipeline)
            try:
                restart_all(market, load, rounds=ROUNDS, seed=SEED)
            finally:
                results = load.stop()
            spent = funds - client.balance()
            again = {n: load.submit(n) for n in (0, len(results) - 1)}
        views = [market.view(worker) for worker in market.running]
        folder = tmp_path / "market" / "broker"
        books = market.run(["broker", "verify-books", "--data-dir", str(folder), "--json"])
    reader = Reader(database.open_snapshot(folder / "broker.sqlite3"))
    jobs = {job.id: job for job in reader.find(Job)}
    leases = list(reader.find(Lease))
    evidence = list(reader.find(Evidence))
    reader.close()

    assert [one for one in evidence if one.kind.lowers_score] == []
    assert [lease for lease in leases if lease.blame_at is not None or lease.pending_evidence] == []
    if ROUNDS > ROUNDS_MIN:
        assert any(lease.state is LeaseState.PREEMPTED for lease in leases), "a stop found no worker at work"
    for view in views:
        assert view["standing"] == "active"
        assert view["score"] >= scores[view["worker"]], view
        assert view["auditor"] or view["accepted"] > 0, view
    assert len(results) >= ROUNDS
    assert {result.job for result in results.values()} == jobs.keys()
    assert len(jobs) == len(results)
    assert {job.status for job in jobs.values()} == {JobStatus.ACCEPTED}
    assert all(result["x"].tolist() == [n, n, n] for n, result in results.items())
    assert spent == sum((result.price for result in results.values()), start=Decimal(0))
    assert all(result.document == results[n].document for n, result in again.items())
    assert books["differences"] == [], books
    assert books["starts"] == ROUNDS + 1
