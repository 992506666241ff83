"""Fetch one artifact, verified, and print the seconds it took and this process's peak memory in MiB.

    python benchmarks/_fetching.py URL CID BYTES

A process of its own, which `benchmarks/content.py` starts: nothing else is in its memory.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import aiohttp

from tradepost.content import Cid, parse_cid
from tradepost.content.transfer.fetch import Fetcher
from tradepost.content.transfer.sources import GatewaySource


async def stream(url: str, cid: Cid, size: int) -> None:
    """Fetch the artifact and let go of it, part by part."""
    async with aiohttp.ClientSession() as session:
        fetcher = Fetcher([GatewaySource(url, session=session)])
        total = 0
        async for part in fetcher.stream_file(cid, bytes_max=size):
            total += len(part)
    assert total == size


def peak_mib() -> float:
    """The peak of this process. (Not `ru_maxrss`, which a child inherits from its parent process.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


if __name__ == "__main__":
    began = time.perf_counter()
    asyncio.run(stream(sys.argv[1], parse_cid(sys.argv[2]), int(sys.argv[3])))
    print(time.perf_counter() - began, peak_mib())
