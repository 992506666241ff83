"""How fast content is addressed, kept and fetched, verified, over loopback; beside `ipfs cat` if it is there.

    python benchmarks/content.py [--mib 1024] [--rounds 3]

The gateway is a broker's, to which the artifact is published. The fetching side is a
process of its own too: its peak memory is all that it has, the interpreter included. Rounds of what is
compared take turns, and the best of each is printed: other work on the machine only ever makes a round
slower. What has a target has it beside its figure.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import aiohttp
from yarl import URL

from tradepost.content import Cid, FolderStore, add_file
from tradepost.content.transfer.fetch import Fetcher
from tradepost.content.transfer.sources import GatewaySource
from tradepost.testing import LocalMarket
from tradepost.testing.kubo_daemon import KuboDaemon, find_ipfs
from tradepost_signing.keys import SigningKey
from tradepost_signing.publishing.pipeline_toml import load_pipeline
from tradepost_signing.publishing.publish import publish, sign_pipeline
from tradepost_signing.testing import ECHO_PIPELINE

BUDGET: Final = 64 << 30
FETCH_MB_S_MIN: Final = 400
FETCH_PEAK_MIB_MAX: Final = 128


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mib", type=int, default=1024, help="the size of the artifact")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(f"{'':<46}{'measured':>14}{'target':>16}")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        measure(Path(folder), stack, options.mib, options.rounds)


def measure(folder: Path, stack: ExitStack, mib: int, rounds: int) -> None:
    """Every figure for an artifact of `mib` MiB."""
    artifact = folder / "kernel.wasm"
    with artifact.open("wb") as file:
        for _ in range(mib):
            file.write(os.urandom(1 << 20))
    size = mib << 20
    store = FolderStore(folder / "store", bytes_max=BUDGET)
    report_rate("address (CID alone)", size, timed(lambda: add_file(artifact, put=None)))
    report_rate("add to the store, durably", size, timed(lambda: add_file(artifact, put=store.put)))
    cid = add_file(artifact, put=None)
    os.environ["TRADEPOST_BROKER_UPLOAD_BYTES_MAX"] = str(BUDGET)
    market = stack.enter_context(LocalMarket(workers=0, folder=folder / "market"))
    (folder / "pipeline.toml").write_text(ECHO_PIPELINE)
    pipeline = sign_pipeline(load_pipeline(folder / "pipeline.toml"), SigningKey.generate())
    sending = publish(pipeline, broker=URL(market.url), api_key=market.api_key, progress=lambda _: None)
    report_rate("publish to the broker, durably", size, timed(lambda: asyncio.run(sending)))
    compare(market.url, cid, artifact, stack, rounds)
    keeping = timed(lambda: asyncio.run(keep(market.url, cid, folder / "other")))
    report_rate("fetch into another store, durably", size, keeping)


def compare(url: str, cid: Cid, artifact: Path, stack: ExitStack, rounds: int) -> None:
    """Fetching from the broker at `url`, beside what Kubo does with the same artifact where there is one."""
    size, peaks_mib = artifact.stat().st_size, []

    def fetch(gateway: str) -> float:
        seconds, peak = fetch_apart(gateway, cid, size)
        peaks_mib.append(peak)
        return seconds

    compared: dict[str, Callable[[], float]] = {"fetch from the broker, verified": lambda: fetch(url)}
    ipfs = find_ipfs()
    if ipfs is None:
        print("no `ipfs` on the path, and TRADEPOST_IPFS names none: nothing beside it")
    else:
        kubo = stack.enter_context(KuboDaemon(ipfs, artifact.parent / "kubo"))
        kubo.run("add", "-Q", "--progress=false", "--cid-version=1", str(artifact))
        compared["`ipfs cat` of the same artifact"] = lambda: timed(lambda: cat(kubo, cid, size))
        compared["fetch from Kubo's gateway, verified"] = lambda: fetch(kubo.gateway)
    taken: dict[str, list[float]] = {name: [] for name in compared}
    for _ in range(rounds):
        for name, run in compared.items():
            taken[name].append(run())
    targets = {"fetch from the broker, verified": f"≥ {FETCH_MB_S_MIN} MB/s"}
    for name, seconds in taken.items():
        report_rate(name, size, min(seconds), targets.get(name, ""))
    report("peak memory of a process that fetched", max(peaks_mib), "MiB", f"≤ {FETCH_PEAK_MIB_MAX} MiB")


def fetch_apart(url: str, cid: Cid, size: int) -> tuple[float, float]:
    """The seconds that a process of its own takes to fetch the artifact, and its peak memory in MiB."""
    command = [sys.executable, str(Path(__file__).with_name("_fetching.py")), url, cid, str(size)]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    seconds, peak = told.split()
    return float(seconds), float(peak)


async def keep(url: str, cid: Cid, folder: Path) -> None:
    """Fetch the artifact into a store."""
    async with aiohttp.ClientSession() as session:
        fetcher = Fetcher([GatewaySource(url, session=session)], store=FolderStore(folder, bytes_max=BUDGET))
        await fetcher.fetch(cid, bytes_max=BUDGET)
    shutil.rmtree(folder)


def cat(kubo: KuboDaemon, cid: Cid, size: int) -> None:
    """What Kubo's own command does, its output counted and dropped."""
    with kubo.start("cat", "--progress=false", cid) as process:
        assert process.stdout is not None
        total = 0
        while part := process.stdout.read(1 << 20):
            total += len(part)
    assert total == size


def timed(run: Callable[[], object]) -> float:
    """The seconds that it takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def report_rate(name: str, size: int, seconds: float, target: str = "") -> None:
    """One line of the table, for `size` bytes in so many seconds."""
    report(name, size / 1e6 / seconds, "MB/s", target)


def report(name: str, figure: float, unit: str, target: str = "") -> None:
    """One line of the table."""
    print(f"{name:<46}{figure:>9.0f} {unit:<4}{target:>16}".rstrip(), flush=True)


if __name__ == "__main__":
    main()
