"""The runner: a process that runs one pipeline's stages and nothing else.

It starts with two pipes and an environment that holds a few settings of libraries, imports its engines, tries
the execution providers once (which loads their libraries), and then locks itself down. Only after that does
it read its first message, so no foreign byte is ever parsed by a process that could open a file or a socket.
It holds no keys and knows nothing of leases, prices or the broker.

The message stream is moved away from descriptors 0 and 1 first: whatever a library prints goes to stderr.
"""

from __future__ import annotations

import gc
import os
import select
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Final

from tradepost.errors import TradepostError
from tradepost.receipts import StageReport
from tradepost_worker.runner.executor import Executor
from tradepost_worker.runner.inference import ENGINE_VERSION, Inference, probe_providers
from tradepost_worker.runner.kernel_sandbox import Sandbox
from tradepost_worker.runner.lockdown import Isolation, die_with_parent, lock_down
from tradepost_worker.runner.messages import (
    LENGTH_BYTES,
    FromRunner,
    Load,
    Loaded,
    Ran,
    Reached,
    Ready,
    RunnerRefused,
    RunPipeline,
    ToRunner,
    pack,
    unpack_request,
)
from tradepost_worker.runner.wasm_profile import engine_hash

#: What receipts name as the engines that ran a pipeline.
ENGINES: Final = {
    "tradepost": version("tradepost"),
    "wasmtime": version("wasmtime"),
    "onnxruntime": ENGINE_VERSION,
}

_READ_BYTES: Final = 1 << 20
#: Replies to requests that are here already are sent together, unless one has waited this long.
_GATHER_S: Final = 0.001
#: Stages are reported once this much work would be lost without: short runs send nothing but their reply.
REPORT_S: Final = 0.02


class Runner:
    """The engines, and the pipeline that is loaded, if one is."""

    def __init__(
        self,
        *,
        sandbox: Sandbox,
        inference: Inference,
        report_s: float = REPORT_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sandbox = sandbox
        self._inference = inference
        self._report_s = report_s
        self._monotonic = monotonic
        self._executor: Executor | None = None

    def answer(self, request: ToRunner, send: Callable[[Reached], None]) -> FromRunner:
        """The reply to one request; a pipeline's failure is one, a defect of this process is not.

        `send` is given what cannot wait for the reply.
        """
        try:
            if isinstance(request, Load):
                return self._load(request)
            return self._run(request, send)
        except TradepostError as error:
            return RunnerRefused(problem=error.to_problem())

    def _load(self, request: Load) -> Loaded:
        self._executor = Executor(
            request.manifest,
            request.artifacts,
            sandbox=self._sandbox,
            inference=self._inference,
            compiled=request.compiled,
        )
        return Loaded(compiled=self._executor.take_compiled())

    def _run(self, request: RunPipeline, send: Callable[[Reached], None]) -> Ran:
        if self._executor is None:
            raise RuntimeError("a run was requested before a pipeline was loaded")
        started_s = reported_s = self._monotonic()

        def report(stages: Sequence[StageReport]) -> None:
            nonlocal reported_s
            if (now_s := self._monotonic()) - reported_s >= self._report_s:
                reported_s = now_s
                send(Reached(stages=tuple(stages)))

        run = self._executor.run(request.document, wall_s_max=request.wall_s_max, on_stages=report)
        return Ran(run=run, wall_us=round((self._monotonic() - started_s) * 1e6))


def isolate(inference: Inference) -> tuple[Isolation, tuple[str, ...]]:
    """Load the providers' libraries, lock this process down, and see which providers still work."""
    probe_providers(inference)
    isolation = lock_down()
    return isolation, probe_providers(inference)


def main(parent_pid: int, threads: int) -> None:
    """Serve the agent with process id `parent_pid` over stdin and stdout until it closes them."""
    die_with_parent(parent_pid)
    requests, replies = _take_pipes()
    inference = Inference(threads=threads)
    isolation, inference.providers = isolate(inference)
    sandbox = Sandbox()
    ready = Ready(
        isolation=isolation,
        providers=inference.providers,
        engines=ENGINES,
        code=engine_hash(sandbox.engine),
    )
    _send(replies, pack(ready))
    gc.freeze()  # what the engines made when they were imported stays: no run waits for its being searched
    serve(Runner(sandbox=sandbox, inference=inference), requests, replies)


def serve(runner: Runner, requests: int, replies: int) -> None:
    """Answer what arrives at descriptor `requests`, in order, until it ends."""
    waiting = select.poll()
    waiting.register(requests, select.POLLIN)
    gathered: list[bytes] = []
    gathered_since_s = 0.0

    def send_now(message: FromRunner | None = None) -> None:
        last = () if message is None else (pack(message),)
        _send(replies, b"".join((*gathered, *last)))  # the replies before it come first
        gathered.clear()

    while (request := _receive(requests)) is not None:
        if not gathered:
            gathered_since_s = time.monotonic()
        gathered.append(pack(runner.answer(request, send_now)))
        if time.monotonic() - gathered_since_s >= _GATHER_S or not waiting.poll(0):
            send_now()


def _receive(requests: int) -> ToRunner | None:
    """The next request; `None` at the end of them."""
    lengths = _read(requests, 2 * LENGTH_BYTES)
    if not lengths:
        return None
    body, document = (
        _read(requests, int.from_bytes(length, "little"))
        for length in (lengths[:LENGTH_BYTES], lengths[LENGTH_BYTES:])
    )
    return unpack_request(body, document)


def _read(descriptor: int, count: int) -> bytes:
    """Exactly `count` bytes, or nothing if they end before. What the pipe holds whole is copied once."""
    first = os.read(descriptor, min(count, _READ_BYTES))
    if len(first) == count or not first:
        return first
    pieces, missing = [first], count - len(first)
    while missing:
        pieces.append(os.read(descriptor, min(missing, _READ_BYTES)))
        if not pieces[-1]:
            return b""
        missing -= len(pieces[-1])
    return b"".join(pieces)


def _take_pipes() -> tuple[int, int]:
    """Move the message stream to fresh descriptors; leave 0 empty and let 1 go where 2 goes."""
    requests, replies = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, replies


def _send(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
