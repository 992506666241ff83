"""A device with a real worker, lent to a scripted broker, and its owner at the keyboard: for tests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
from aiohttp.test_utils import TestServer
from typer.testing import CliRunner
from wasmtime import wat2wasm

import tradepost_kernels
from tradepost.protocol import Grant
from tradepost_signing.checks.publisher import Publisher
from tradepost_signing.policy.policy_file import add_publisher
from tradepost_worker.assembly import worker_from_settings
from tradepost_worker.cli import app
from tradepost_worker.device.governor import SETTLE_S
from tradepost_worker.device.owner_command import Mode, OwnerCommand, OwnerCommandFile
from tradepost_worker.link.joining import join
from tradepost_worker.settings import FILE_NAME, load_settings, save_settings
from tradepost_worker.state import StateFolder
from tradepost_worker.testing.fake_broker import FakeBroker
from tradepost_worker.testing.samples import SamplePipeline, kernel_pipeline, sample_input


def spinning_kernel(rounds: int) -> bytes:
    """A kernel that counts to `rounds` and returns its input; 0 never ends."""
    wat = f"""(module (memory (export "memory") 4)
        (func (export "kernel_alloc") (param i32) (result i32) (i32.const 65536))
        (func (export "kernel_run") (param i32 i32) (result i64) (local $n i64)
          (loop $on
            (local.set $n (i64.add (local.get $n) (i64.const 1)))
            (br_if $on (i64.ne (local.get $n) (i64.const {rounds}))))
          (i64.or (i64.shl (i64.extend_i32_u (local.get 0)) (i64.const 32))
                  (i64.extend_i32_u (local.get 1)))))"""
    return bytes(wat2wasm(wat))


#: Its time limit, and that of its leases, is for a busy machine, on which a second of work takes a minute.
FOREVER = kernel_pipeline(spinning_kernel(0), name="forever", fuel=1 << 50, wall_ms=600_000)
NOOP = kernel_pipeline(tradepost_kernels.load("noop"))
#: A runner that uses this much CPU time does more than start or end another lease.
BUSY_S = 1.0


class LentDevice:
    """A device with its worker, and its owner at the keyboard."""

    def __init__(self, broker: FakeBroker, url: str, folder: Path) -> None:
        self.broker = broker
        self.url = url
        self.folder = folder
        self.settle_s = SETTLE_S

    async def say(self, *arguments: str) -> str:
        """What a command prints; commands run their own event loop, so they get a thread."""
        call = [*arguments, "--state-dir", str(self.folder)]
        result = await asyncio.to_thread(CliRunner().invoke, app, call)
        if result.exception is not None:
            raise result.exception
        return result.stdout

    def pause(self) -> None:
        """Say what `tradepost worker pause` says."""
        OwnerCommandFile(StateFolder(self.folder).owner_command).write(OwnerCommand(mode=Mode.PAUSE))

    def resume(self) -> None:
        """Say what `tradepost worker resume` says."""
        OwnerCommandFile(StateFolder(self.folder).owner_command).clear()

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[asyncio.Task[None]]:
        """A running worker, connected; stopped at the end."""
        self.broker.connected.clear()
        stop = asyncio.Event()
        settings = load_settings({"state_dir": self.folder})
        async with worker_from_settings(settings, settle_s=self.settle_s) as worker:
            running = asyncio.create_task(worker.run(stop))
            try:
                async with asyncio.timeout(180):
                    await self.broker.connected.wait()
                yield running
            finally:
                stop.set()
                await running

    async def forever(self) -> tuple[Grant, psutil.Process]:
        """A lease that runs until it is stopped, and the runner that is busy with it."""
        before_s = {one: one.cpu_times().user for one in runners()}
        grant = self.broker.grant(FOREVER, sample_input())
        await self.broker.send(grant)
        found: list[psutil.Process] = []

        def is_busy() -> bool:
            found[:] = [one for one in runners() if one.cpu_times().user - before_s.get(one, 0.0) > BUSY_S]
            return found != []

        await until(is_busy)
        return grant, found[0]

    async def capacity(self, expected: int) -> None:
        """Wait until this much is offered, by the newest offer: an older one says nothing about now."""
        async with asyncio.timeout(180):
            while (await self.broker.newest_offer()).capacity != expected:
                pass


def runners() -> list[psutil.Process]:
    """The runners that this process started."""
    found = []
    for child in psutil.Process().children():
        try:
            if "tradepost_worker.runner.main" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


async def until(condition: Callable[[], object], *, s_max: float = 180.0) -> None:
    """Wait for something that only the system can tell, by looking."""
    looked = asyncio.Event()
    deadline_s = time.monotonic() + s_max
    while not condition():
        assert time.monotonic() < deadline_s
        asyncio.get_running_loop().call_later(0.005, looked.set)
        await looked.wait()
        looked.clear()


@asynccontextmanager
async def lent_device(
    folder: Path, *pipelines: SamplePipeline, may_revoke: bool = True
) -> AsyncIterator[LentDevice]:
    """A device that joined a broker of these pipelines, and trusts their publisher. It offers two leases, and
    gives way to nobody, since a test waits for it.

    Without `may_revoke`, the market has no operator whose revocation lists count.
    """
    broker = FakeBroker()
    if not may_revoke:
        broker.operator = None
    for pipeline in (NOOP, FOREVER, *pipelines):
        broker.publish(pipeline)
    async with TestServer(broker.app) as server:
        device = LentDevice(broker, str(server.make_url("/")).rstrip("/"), folder)
        await join(StateFolder(folder), broker_url=device.url, token=broker.token, device="lab")
        add_publisher(folder / "trust.toml", Publisher(name="a", key=broker.publisher.public_key))
        save_settings(folder / FILE_NAME, {"capacity": 2, "runners_max": 2, "nice": 0, "mains_only": False})
        yield device
