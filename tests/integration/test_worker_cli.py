"""`tradepost worker`, as its owner uses it: join, trust, run, look, stop."""

from __future__ import annotations

import asyncio
import json
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import trustme
from aiohttp.test_utils import TestServer
from typer.testing import CliRunner, Result
from wasmtime import wat2wasm

import tradepost_kernels
from tradepost.errors import (
    BrokerUnavailable,
    InsecureTransport,
    InvalidJoinToken,
    InvalidTrustPolicy,
    ProtocolError,
    TradepostError,
    WrongMoment,
)
from tradepost.identity import Identity
from tradepost.pipeline.tensors import decode
from tradepost.protocol import Deliver, GiveBack, GiveBackReason, Settled
from tradepost_signing.keyless.identity import SigstoreIdentity
from tradepost_signing.keys import SigningKey
from tradepost_worker import assembly
from tradepost_worker.assembly import run_worker, worker_from_settings
from tradepost_worker.cli import app
from tradepost_worker.settings import FILE_NAME, load_settings, save_settings
from tradepost_worker.state import StateFolder
from tradepost_worker.testing.fake_broker import FakeBroker
from tradepost_worker.testing.samples import kernel_pipeline, sample_input

NOOP = kernel_pipeline(tradepost_kernels.load("noop"))
FOREVER = kernel_pipeline(
    bytes(
        wat2wasm(
            """(module (memory (export "memory") 4)
            (func (export "kernel_alloc") (param i32) (result i32) (i32.const 65536))
            (func (export "kernel_run") (param i32 i32) (result i64) (loop $on (br $on)) (unreachable)))"""
        )
    ),
    name="forever",
    fuel=1 << 50,
)


class Owner:
    """Runs commands on one state folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def invoke(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, [*arguments, "--state-dir", str(self.folder)])

    def says(self, *arguments: str) -> str:
        result = self.invoke(*arguments)
        assert result.exit_code == 0, result.exception
        return result.stdout

    def says_json(self, *arguments: str) -> Any:
        return json.loads(self.says(*arguments, "--json"))

    def fails(self, error: type[TradepostError], *arguments: str) -> TradepostError:
        result = self.invoke(*arguments)
        assert isinstance(result.exception, error), result.exception
        return result.exception

    def trust(self, key: SigningKey) -> str:
        path = self.folder.parent / "alice.pub"
        path.write_bytes(key.public_key.pem)
        return self.says("trust", "add", "alice", str(path))


@pytest.fixture
def owner(tmp_path: Path) -> Owner:
    return Owner(tmp_path / "state")


@pytest.fixture
async def broker() -> AsyncIterator[tuple[FakeBroker, str]]:
    fake = FakeBroker()
    fake.publish(NOOP)
    fake.publish(FOREVER)
    async with TestServer(fake.app) as server:
        yield fake, str(server.make_url("/")).rstrip("/")


async def join(owner: Owner, broker: tuple[FakeBroker, str], *options: str) -> Any:
    """Commands run their own event loop, so they get a thread."""
    arguments = [
        "join",
        broker[1],
        "--token",
        broker[0].token,
        "--name",
        "lab",
        "--no-run",
        "--no-measure",
        *options,
    ]
    return await asyncio.to_thread(owner.says_json, *arguments)


async def test_a_workers_life(owner: Owner, broker: tuple[FakeBroker, str], tmp_path: Path) -> None:
    fake, url = broker
    assert "Not joined" in owner.says("status")
    assert "This device has not joined" in owner.says("earnings")
    joined = await join(owner, broker, "--price", "0.002")
    assert joined["worker"] == StateFolder(owner.folder).identity().id
    assert (joined["owner"], joined["device"], joined["broker_id"]) == ("owner", "lab", fake.identity.id)
    assert owner.says_json("status")["running"] is False
    assert "may now run on this device" in owner.trust(fake.publisher)

    # A nice runner takes minutes to start on a busy machine.
    save_settings(owner.folder / FILE_NAME, {"nice": 0, "mains_only": False})
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tradepost", "worker", "run", "--capacity", "2", "--json"),
        *("--state-dir", str(owner.folder)),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(180):
            await fake.connected.wait()
        offer = fake.hellos[-1].offer
        assert (offer.price_per_unit_microcredits, offer.capacity) == (2000, 2)
        assert offer.capabilities.providers == ("cpu",)
        assert "seccomp" in offer.capabilities.isolation or sys.platform != "linux"
        await fake.send(fake.grant(NOOP, sample_input(5)))
        delivered = await fake.next(Deliver)
        assert delivered.output is not None
        assert decode(delivered.output)["x"].tolist() == [5.0]
        # The running worker notes once a second how many leases run.
        while (status := await asyncio.to_thread(owner.says_json, "status"))["leases_running"]:
            pass
        assert (status["running"], status["connected"], status["capacity"]) == (True, True, 2)
        assert status["sentence"].startswith(f"Idle at {url} for 0 minutes: 0 leases in the last hour")
        assert status["sentence"].endswith("earned 0 credits for 0 of 0 leases.")
        await fake.send(Settled(delivered.lease, "accepted", 2000, "2 of 2 agree"))
        running = fake.grant(FOREVER, sample_input())
        await fake.send(running)
        assert (await fake.offers.get()).warm == (NOOP.cid,)

        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        process.send_signal(signal.SIGTERM)
        end = await fake.next(GiveBack)
        assert (end.lease, end.reason) == (running.lease, GiveBackReason.PREEMPTED)
        assert process.stderr is not None
        log = [json.loads(line) for line in (await process.stderr.read()).splitlines()]
        async with asyncio.timeout(180):
            assert await process.wait() == 0
        assert not any(child.is_running() for child in children)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert {"connected", "pipeline_admitted", "lease_settled"} <= {line["action"] for line in log}
    assert owner.says("status") == "Stopped; earned 0.002 credits for 1 of 1 lease.\n"
    earned = await asyncio.to_thread(owner.says_json, "earnings")
    row = {"leases": 1, "paid_leases": 1, "earned_microcredits": 2000}
    assert earned["ever"] == row
    assert [{**one, "of": None} for one in earned["by_day"]] == [{"of": None, **row}]
    assert earned["by_pipeline"] == [{"of": NOOP.cid, **row}]
    assert "0.002 credits" in await asyncio.to_thread(owner.says, "earnings")


def test_the_process_with_the_key_loads_no_engine() -> None:
    code = "import sys, tradepost_worker.cli; print(sorted({'onnxruntime', 'wasmtime'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


async def test_joining_twice_keeps_the_identity(owner: Owner, broker: tuple[FakeBroker, str]) -> None:
    assert (await join(owner, broker))["worker"] == (await join(owner, broker))["worker"]


async def test_a_token_may_be_copied_with_blanks_around_it(
    owner: Owner, broker: tuple[FakeBroker, str]
) -> None:
    arguments = ("join", broker[1], "--token", f" {broker[0].token}\n", "--no-run")
    await asyncio.to_thread(owner.says, *arguments)
    assert StateFolder(owner.folder).membership() is not None


async def test_a_token_of_another_broker_is_refused(owner: Owner, broker: tuple[FakeBroker, str]) -> None:
    token = f"tpj_0123456789abcdef.{Identity.generate().id}"
    arguments = ("join", broker[1], "--token", token, "--no-run")
    broker[0].takes_any_token = True
    await asyncio.to_thread(owner.fails, ProtocolError, *arguments)
    assert StateFolder(owner.folder).membership() is None


@pytest.mark.parametrize("token", ["", "secret", "tpj_0123456789abcdef", "tpj_0123456789abcdef.short"])
def test_what_is_no_token_is_refused_before_anything_is_sent(owner: Owner, token: str) -> None:
    owner.fails(InvalidJoinToken, "join", "http://127.0.0.1:1", "--token", token)


def test_plain_http_is_for_loopback(owner: Owner) -> None:
    token = f"tpj_0123456789abcdef.{Identity.generate().id}"
    owner.fails(InsecureTransport, "join", "http://broker.example", "--token", token)


async def test_a_certificate_that_nothing_here_vouches_for(owner: Owner) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(tls)
    server = TestServer(FakeBroker().app, scheme="https")
    await server.start_server(ssl=tls)
    try:
        token = f"tpj_0123456789abcdef.{Identity.generate().id}"
        arguments = ("join", str(server.make_url("/")), "--token", token)
        error = await asyncio.to_thread(owner.fails, BrokerUnavailable, *arguments)
    finally:
        await server.close()
    assert "CERTIFICATE_VERIFY_FAILED" in error.detail
    assert "ca-certificates" in error.hint


async def test_running_needs_joining(owner: Owner) -> None:
    with pytest.raises(WrongMoment) as caught:
        async with worker_from_settings(load_settings({"state_dir": owner.folder})):
            pass
    assert "worker join" in caught.value.hint


async def test_one_state_folder_runs_one_worker(owner: Owner, broker: tuple[FakeBroker, str]) -> None:
    await join(owner, broker)
    with StateFolder(owner.folder).in_use():
        with pytest.raises(WrongMoment, match="already"):
            async with worker_from_settings(load_settings({"state_dir": owner.folder})):
                pass
        assert owner.says_json("status")["running"] is True
        assert "Trying to reach" in owner.says("status")
    assert owner.says_json("status")["running"] is False


@pytest.mark.parametrize("place", ["measured_again", "_open_pipelines"])
async def test_a_stop_ends_a_start_and_leaves_no_runner(
    owner: Owner, broker: tuple[FakeBroker, str], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    reached, stop = asyncio.Event(), asyncio.Event()

    async def never(*_: object, **__: object) -> None:
        reached.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(assembly, place, never)
    await join(owner, broker)
    before = {child.pid for child in psutil.Process().children()}
    settings = load_settings({"state_dir": owner.folder})
    running = asyncio.create_task(run_worker(worker_from_settings(settings), stop))
    await reached.wait()
    assert {child.pid for child in psutil.Process().children()} - before  # the first runner
    stop.set()
    await running
    assert {child.pid for child in psutil.Process().children()} <= before
    assert owner.says_json("status")["running"] is False


async def test_a_start_that_fails_is_told(owner: Owner) -> None:
    settings = load_settings({"state_dir": owner.folder})
    with pytest.raises(WrongMoment):
        await run_worker(worker_from_settings(settings), asyncio.Event())


def test_the_owner_sees_who_is_trusted(owner: Owner) -> None:
    assert "No publisher is trusted" in owner.says("trust", "list")
    key = SigningKey.generate()
    owner.trust(key)
    assert owner.folder.stat().st_mode & 0o077 == 0
    assert owner.says_json("trust", "list") == [{"name": "alice", "key_id": key.public_key.id}]
    owner.fails(InvalidTrustPolicy, "trust", "add", "again", str(owner.folder.parent / "alice.pub"))


def test_the_owner_trusts_an_identity(owner: Owner) -> None:
    who = {"issuer": "https://issuer.example", "subject": "bob@example.com"}
    named = ("--identity", who["subject"], "--issuer", who["issuer"])
    facts = {"name": "bob", "identity_id": SigstoreIdentity(**who).id} | who
    policy = str(owner.folder / "trust.toml")
    assert owner.says_json("trust", "add", "bob", *named) == facts | {"policy": policy}
    assert owner.says_json("trust", "list") == [facts]
    assert "bob@example.com (issuer https://issuer.example)" in owner.says("trust", "list")
    owner.fails(InvalidTrustPolicy, "trust", "add", "carol", "--identity", "c", "--issuer", "no URL")


@pytest.mark.parametrize(
    "whom",
    [
        (),
        ("key.pub", "--identity", "a", "--issuer", "https://b"),
        ("--identity", "a"),
        ("key.pub", "--issuer", "b"),
    ],
)
def test_trust_is_in_one_key_or_identity(owner: Owner, whom: tuple[str, ...]) -> None:
    assert owner.invoke("trust", "add", "bob", *whom).exit_code == 2
    assert not owner.folder.exists()
