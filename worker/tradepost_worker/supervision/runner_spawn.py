"""Starts the process of a runner: a bare interpreter in a session of its own, with an empty environment."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

Protocol = TypeVar("Protocol", bound=asyncio.SubprocessProtocol)

#: What a pipe holds: most documents pass in one go, instead of both processes waking for every 64 KiB.
_PIPE_BYTES: Final = 1 << 20

#: The program that a runner is.
BOOT: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from tradepost_worker.runner.main import main; main(int(sys.argv[2]), int(sys.argv[3]))"
)
_ENVIRONMENT: Final = {
    # numpy's libraries start threads when imported, unless told otherwise; Landlock needs a single one.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # glibc keeps what a document took for the next one: fresh pages cost more than copying into them.
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
}


async def spawn(
    make_protocol: Callable[[asyncio.WriteTransport], Protocol], *, boot: str, threads: int
) -> Protocol:
    """Start a process that runs the program `boot`; what `make_protocol` makes of the pipe for requests."""
    environment = _ENVIRONMENT | {
        name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ
    }
    paths = json.dumps([path for path in sys.path if os.path.isabs(path)])
    loop = asyncio.get_running_loop()
    # Not asyncio's own pipe, which is a socket pair on some versions.
    requests, requests_end = os.pipe()
    widen_pipe(requests_end)
    try:
        requests_pipe, _ = await loop.connect_write_pipe(
            asyncio.BaseProtocol, os.fdopen(requests_end, "wb", buffering=0)
        )
        _, protocol = await loop.subprocess_exec(
            lambda: make_protocol(requests_pipe),
            *(sys.executable, "-I", "-B", "-c", boot, paths, str(os.getpid()), str(threads)),
            stdin=requests,
            env=environment,
            cwd="/",
            start_new_session=True,
        )
    finally:
        os.close(requests)  # if there is no runner, this closes the pipe's other end too
    return protocol


def widen_pipe(pipe: int) -> None:
    """Let a pipe hold a whole document, where the system allows it."""
    if not hasattr(fcntl, "F_SETPIPE_SZ"):  # Linux alone lets a process say what a pipe holds
        return
    with suppress(PermissionError):  # the user's pipes hold all that the system lets them: slower, not wrong
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
