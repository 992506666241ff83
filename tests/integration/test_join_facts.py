"""What a device measures of itself when it joins, and what its owner is told about the market."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import onnx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

from tradepost.protocol import Finding
from tradepost_worker.commands.join_report import JoinFacts
from tradepost_worker.commands.status import Status
from tradepost_worker.device.governor import Allowance, Cause, Readings
from tradepost_worker.device.owner_command import WORK
from tradepost_worker.leases.earnings import Earnings
from tradepost_worker.link.broker_api import BrokerApi
from tradepost_worker.link.market_view import (
    Competition,
    MarketStanding,
    MarketView,
    PriceRange,
    look_at_market,
)
from tradepost_worker.runner.lockdown import Isolation
from tradepost_worker.runner.messages import Ready
from tradepost_worker.settings import load_settings
from tradepost_worker.state import Connection, Membership, WorkerStatus
from tradepost_worker.supervision import speed as speed_module
from tradepost_worker.supervision.reference_model import reference_model
from tradepost_worker.supervision.speed import Speed, measured_again, measured_speed

MEMBERSHIP = Membership(
    broker_url="https://b", broker="k", worker="me", owner="ada", device="lab", stake_microcredits=5_000_000
)
SPEED = Speed(
    hardware="a chip, 2 cores",
    engines={},
    providers=("cpu",),
    measured_at=0,
    kernel_mfuel_per_s=1800.0,
    model_gflops={"cpu": 42.0},
)
NOTHING = Earnings(leases=0, paid_leases=0, earned_microcredits=0)


def test_the_reference_model_is_one() -> None:
    model = onnx.load_from_string(reference_model())
    onnx.checker.check_model(model, full_check=True)


async def test_speed_is_measured_once_for_each_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, ready = await measured_speed(tmp_path, threads=1)
    assert first.kernel_mfuel_per_s > 1
    assert first.model_gflops["cpu"] > 0.1
    assert first.fits(ready)
    assert (await measured_speed(tmp_path, threads=1))[0] == first
    monkeypatch.setattr(speed_module, "hardware", lambda: "another chip")
    again = (await measured_speed(tmp_path, threads=1))[0]
    assert again.hardware == "another chip"
    assert again.measured_at > first.measured_at


async def test_a_start_after_a_change_measures_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, ready = await measured_speed(tmp_path, threads=1)
    assert await measured_again(tmp_path, ready, threads=1) is None
    monkeypatch.setattr(speed_module, "hardware", lambda: "another chip")
    again = await measured_again(tmp_path, ready, threads=1)
    assert again is not None
    assert (again.hardware, again.measured_at > first.measured_at) == ("another chip", True)
    assert await measured_again(tmp_path, ready, threads=1) is None
    (tmp_path / speed_module.FILE_NAME).unlink()
    assert await measured_again(tmp_path, ready, threads=1) is None  # it never joined with a measurement


@pytest.mark.parametrize(
    "change", [{"engines": {"onnxruntime": "1", "wasmtime": "2"}}, {"providers": ("cuda", "cpu")}]
)
def test_a_speed_is_of_the_engines_and_providers_that_were_measured(change: dict[str, object]) -> None:
    engines = {"onnxruntime": "1", "wasmtime": "1"}
    ready = Ready(isolation=Isolation(achieved=(), refused={}), providers=("cpu",), engines=engines, code="")
    speed = msgspec.structs.replace(SPEED, hardware=speed_module.hardware(), engines=engines)
    assert speed.fits(ready)
    assert not speed.fits(msgspec.structs.replace(ready, **change))


def test_joining_ends_with_facts(tmp_path: Path) -> None:
    facts = JoinFacts(
        membership=MEMBERSHIP,
        speed=SPEED,
        isolation=Isolation(achieved=("process", "seccomp"), refused={"landlock": "no"}),
        limits={"cpu_percent": 50, "hours": "", "memory_bytes_max": 3 << 30},
        not_enforceable={"gpu_percent": "no sensor"},
        prices=None,
        publishers_trusted=0,
    )
    text = "\n".join(facts.lines())
    for fact in ("lab", "me", "1,800 million fuel/s", "cpu 42.0 GFLOP/s", "seccomp", "landlock: no"):
        assert fact in text
    assert "gpu_percent is not enforceable here: no sensor" in text
    for fact in (
        "cpu_percent 50",
        "memory_bytes_max 3221225472 (3,072 MiB)",
        "no data yet",
        "Ctrl-C",
        "worker uninstall",
    ):
        assert fact in text
    prices = PriceRange(leases=9, low_microcredits=1000, median_microcredits=2000, high_microcredits=4000)
    told = "\n".join(msgspec.structs.replace(facts, prices=prices).lines())
    assert "0.001 to 0.004 credits per lease, from the newest 9 paid leases" in told
    assert facts.to_json()["device"] == "lab"
    bare = msgspec.structs.replace(facts, speed=None, isolation=None)
    assert "speed      not measured" in bare.lines()
    assert "isolation  not measured: run `tradepost worker doctor` to measure it" in bare.lines()


def lease(number: int, *, lost: bool = True) -> dict[str, object]:
    return {
        "lease": f"l{number}",
        "worker": "you",
        "granted_at": 1.0,
        "price_microcredits": 800,
        "state": "accepted",
        "paid_microcredits": 100 * number,
        "candidates": [
            {"worker": "you", "bid_microcredits": 700, "score_microcredits": 5, "lost_because": ""},
            {
                "worker": "me" if lost else "else",
                "bid_microcredits": 1000,
                "score_microcredits": 1,
                "lost_because": "price",
            },
        ],
    }


ACCOUNT = {
    "standing": "active",
    "score": 0.9,
    "accepted": 3,
    "stake_microcredits": 1,
    "held_microcredits": 2,
    "earned_microcredits": 3,
    "slashed_microcredits": 0,
    "owner": "ada",
}


async def test_the_market_is_read_from_what_the_broker_tells_everybody() -> None:
    async def account(_: web.Request) -> web.Response:
        return web.json_response(ACCOUNT)

    async def market(_: web.Request) -> web.Response:
        return web.json_response({"leases": [lease(0), lease(1), lease(2), lease(3, lost=False)]})

    app = web.Application()
    app.add_routes([web.get("/v1/workers/me", account), web.get("/v1/dashboard.json", market)])
    async with TestServer(app) as server, BrokerApi(server.make_url("/")) as broker:
        view = await look_at_market(broker, "me")
    assert view is not None
    assert view.account is not None
    assert view.account.held_microcredits == 2
    assert view.competition == Competition(matches=4, lost=3, reason="price", price_ratio=0.8)
    assert view.prices == PriceRange(
        leases=3, low_microcredits=100, median_microcredits=200, high_microcredits=300
    )


async def test_a_broker_that_does_not_answer_says_nothing() -> None:
    async with BrokerApi(URL("http://127.0.0.1:1")) as broker:
        assert await look_at_market(broker, "me") is None


SUSPENDED = MarketStanding(
    standing="suspended",
    score=0.31,
    accepted=4,
    stake_microcredits=1,
    held_microcredits=0,
    earned_microcredits=0,
    slashed_microcredits=0,
)


def status(tmp_path: Path, **changes: object) -> str:
    limits = load_settings({"state_dir": tmp_path}, {}).limits
    cause = changes.pop("cause", None)
    running = changes.pop("leases_running", 0)
    skew_s = changes.pop("clock_skew_s", None)
    facts: dict[str, object] = {
        "state_dir": str(tmp_path),
        "at": 7200.0,
        "membership": MEMBERSHIP,
        "connection": Connection(is_connected=True, since=0.0),
        "standing": WorkerStatus(
            at=0,
            decision=Allowance(capacity=2, cpu_percent=100, cause=cause, why="because", until=None),
            readings=Readings(at=0, minute_of_day=0, clock_skew_s=skew_s),
            limits=limits,
            running=running,
            preemptions=0,
        ),
        "word": WORK,
        "unacknowledged": 0,
        "last_hour": NOTHING,
        "ever": NOTHING,
        "publishers_trusted": 1,
        "limits": {},
        "not_enforceable": {},
    }
    return Status(**(facts | changes)).sentence()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"membership": None}, "Not joined"),
        ({"connection": None}, "Stopped;"),
        ({"cause": Cause.MAINS}, "Paused: because"),
        ({"cause": Cause.DRAIN, "leases_running": 3}, "Draining: because, 3 leases left"),
        ({"connection": Connection(is_connected=False, since=0.0)}, "not connected for 120 minutes"),
        ({"publishers_trusted": 0}, "0 publishers are trusted"),
        ({"leases_running": 1}, "Working for https://b: 1 of 2 leases run"),
        (
            {"last_hour": Earnings(leases=4, paid_leases=4, earned_microcredits=2_000_000)},
            "Waiting for work from https://b: 4 leases in the last hour, 2 credits",
        ),
        (
            {},
            "Idle at https://b for 120 minutes: 0 leases in the last hour; the broker",
        ),
        ({"unacknowledged": 2}, "2 results wait for the broker"),
        ({"unacknowledged": 1}, "1 result waits for the broker"),
        ({"leases_running": 1, "cause": Cause.DRAIN}, "because, 1 lease left"),
        (
            {"last_hour": Earnings(leases=1, paid_leases=1, earned_microcredits=2_000_000)},
            "Waiting for work from https://b: 1 lease in the last hour, 2 credits",
        ),
        (
            {"ever": Earnings(leases=1, paid_leases=1, earned_microcredits=2_000_000)},
            "earned 2 credits for 1 of 1 lease.",
        ),
        ({"connection": Connection(is_connected=False, since=7140.0)}, "not connected for 1 minute;"),
        (
            {"connection": Connection(is_connected=False, since=7140.0, problem="refused")},
            "not connected for 1 minute (refused);",
        ),
        # This device's clock was set back by an hour since.
        ({"connection": Connection(is_connected=True, since=10_800.0)}, "Idle at https://b for 0 minutes:"),
        (
            {"findings": (Finding("j.1", "failed", 7000.0, "resize", "it crashed"),)},
            "; 1 lease lowered its reputation in the last day (j.1: this device failed (stage resize): it",
        ),
        (
            {"findings": (Finding("j.2", "outvoted", 7000.0), Finding("j.1", "expired", 6000.0))},
            "; 2 leases lowered its reputation in the last day (j.2: results of other owners agree on",
        ),
        (
            {"market": MarketView(account=SUSPENDED, competition=None, prices=None)},
            "but this device is suspended there (score 0.31), so it gets no leases",
        ),
        ({"clock_skew_s": -3600.0}, "; this device's clock is 60 min behind the broker's clock."),
        ({"clock_skew_s": 30.0}, "earned 0 credits for 0 of 0 leases."),
    ],
)
def test_each_state_is_one_sentence_with_a_number(
    tmp_path: Path, changes: dict[str, object], expected: str
) -> None:
    sentence = status(tmp_path, **changes)
    assert expected in sentence
    assert sentence.count("\n") == 0


@pytest.mark.parametrize(
    ("competition", "expected"),
    [
        (None, "0 leases in the last hour in the whole market"),
        (Competition(matches=30, lost=0), "it was not eligible for any of the market's last 30 matches"),
        (Competition(matches=1, lost=0), "it was not eligible for any of the market's last 1 match"),
        (
            Competition(matches=30, lost=14, reason="price", price_ratio=0.8),
            "lost 14 of the market's last 30 matches (price), median price paid 0.8x its bid",
        ),
    ],
)
def test_idleness_is_explained_by_the_market(
    tmp_path: Path, competition: Competition | None, expected: str
) -> None:
    view = MarketView(account=None, competition=competition, prices=None)
    assert expected in status(tmp_path, market=view)


def test_a_clock_is_local(tmp_path: Path) -> None:
    decision = Allowance(capacity=0, cpu_percent=100, cause=Cause.OWNER, why="because", until=0.0)
    standing = WorkerStatus(
        at=0,
        decision=decision,
        readings=Readings(at=0, minute_of_day=0),
        limits=load_settings({"state_dir": tmp_path}, {}).limits,
        running=0,
        preemptions=0,
    )
    assert time.strftime("%Y-%m-%d %H:%M", time.localtime(0)) in status(tmp_path, standing=standing)
