"""One runner process, and the messages over its pipes.

Requests may overlap: they are written as they come and answered in order (`RequestQueue`), so the next one is
in the runner before the last one's reply is out. Limits are enforced from here, whatever runs inside: the
deadline of the request that runs (`RequestQueue`), memory, threads and work that nobody asked for
(`UseWatch`), the size of a message and of all that goes to stderr, and the agent's end. Whatever goes wrong,
the whole process group is killed, and the first reason is the one that counts.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Final, Self

import msgspec

from tradepost.errors import RunnerFailed, RunnerInterrupted, TradepostError
from tradepost.pipeline.manifest import Manifest
from tradepost_worker.runner.messages import (
    COMPILED_BYTES_MAX,
    FromRunner,
    Load,
    Loaded,
    MessageBuffer,
    Ran,
    Ready,
    RunnerRefused,
    RunPipeline,
    ToRunner,
    pack_request,
    unpack_from_runner,
)
from tradepost_worker.supervision.control_group import ControlGroups, tasks_max
from tradepost_worker.supervision.process_group import ProcessGroup, Suspension
from tradepost_worker.supervision.request_queue import OnStages, Phase, RequestQueue, ignore_stages
from tradepost_worker.supervision.runner_failures import (
    LOAD_REFUSALS,
    RUN_REFUSALS,
    ErrorOutput,
    exit_reason,
    failure,
    refusal,
)
from tradepost_worker.supervision.runner_policy import DEFAULTS, LOAD_S_MAX, RunnerPolicy
from tradepost_worker.supervision.runner_spawn import BOOT, spawn, widen_pipe
from tradepost_worker.supervision.use_watch import UseWatch

_CONTROL_BYTES_MAX: Final = 1 << 20


class RunnerProcess(asyncio.SubprocessProtocol):
    """A runner process. Make it with `start`, end it with `close`."""

    def __init__(self, requests_pipe: asyncio.WriteTransport, *, policy: RunnerPolicy) -> None:
        self._loop = asyncio.get_running_loop()
        self._requests_pipe = requests_pipe
        self._policy = policy
        self._outgoing: list[bytes] = []
        self._received = MessageBuffer(bytes_max=_CONTROL_BYTES_MAX)
        self._error_output = ErrorOutput()
        self._suspension = Suspension()
        self._requests = RequestQueue(policy=policy, suspension=self._suspension, on_overdue=self._fail)
        self._use: UseWatch | None = None
        self._failure: TradepostError | None = None
        #: How many times longer a run may take by the runner's own clock, which goes on while it is stopped.
        self.wall_stretch = 1.0
        #: Set once the process has ended.
        self.ended = asyncio.Event()
        self._at_end: list[Callable[[], None]] = []
        self._transport: asyncio.SubprocessTransport
        self._group: ProcessGroup
        self.pid: int
        self.ready: Ready

    @classmethod
    async def start(
        cls,
        *,
        threads: int = 1,
        boot: str = BOOT,
        groups: ControlGroups | None = None,
        on_spawn: Callable[[Self], None] = lambda _: None,
        policy: RunnerPolicy = DEFAULTS,
    ) -> Self:
        """A runner, locked down and ready to load. Raises `RunnerFailed`, `SandboxUnavailable`.

        `boot` is the program that it runs; tests and other entry points replace it. `groups` is where it gets
        a control group of its own from, and then it says so among its isolation. `on_spawn` is told of the
        process before it has imported its engines.
        """
        runner = await spawn(partial(cls, policy=policy), boot=boot, threads=threads)
        try:
            if groups is not None:
                runner._group.control_group = groups.admit(runner.pid)
            on_spawn(runner)
            await runner._begin()
            runner._use = UseWatch(
                runner.pid,
                threads_max=tasks_max(threads),
                policy=policy,
                is_idle=lambda: runner._requests.is_empty,
                on_excess=runner._kill_for,
            )
            if runner._failure is not None:  # while it began: nobody else will stop the watch
                runner._use.stop()
            if groups is not None:
                isolation = groups.seen_in(runner.ready.isolation)
                runner.ready = msgspec.structs.replace(runner.ready, isolation=isolation)
        except BaseException:
            await runner.close()
            raise
        return runner

    async def load(
        self,
        manifest: Manifest,
        artifacts: Mapping[str, bytes],
        *,
        memory_bytes_max: int,
        output_bytes_max: int,
        compiled: Mapping[str, bytes] | None = None,
        load_s_max: float = LOAD_S_MAX,
    ) -> dict[str, bytes]:
        """Load a pipeline into the fresh runner, which compiles its kernels and prepares its models.

        `compiled` is code that an earlier runner of the same pipeline returned from here, by CID; what is
        returned now is the code of the kernels that had to be compiled. It is whatever the runner says.

        Raises `StageFailure` for an artifact that loads nowhere, `NoEligibleWorker`, `PipelineTooCostly` if
        the runner ends or takes more than `load_s_max` seconds, or `RunnerFailed`.
        """
        self._allow_memory(memory_bytes_max + self._policy.memory_overhead_bytes)
        self._received.bytes_max = COMPILED_BYTES_MAX + _CONTROL_BYTES_MAX
        message = Load(manifest=manifest, artifacts=dict(artifacts), compiled=dict(compiled or {}))
        reply = await self._ask(message, load_s_max, phase="load")
        self._received.bytes_max = output_bytes_max + _CONTROL_BYTES_MAX
        if isinstance(reply, RunnerRefused):
            raise refusal(reply.problem, LOAD_REFUSALS)
        if not isinstance(reply, Loaded):
            raise self._fail(RunnerFailed(f"the runner answered a load with {type(reply).__name__}"))
        return reply.compiled

    async def run(self, document: bytes, *, wall_s_max: float, on_stages: OnStages = ignore_stages) -> Ran:
        """Run the loaded pipeline; `on_stages` is told of those that finish while a long run goes on.

        Raises `InvalidInput` or `InvalidTensorDocument` for the document; `LeaseTimeout`, `RunnerFailed` and
        `SandboxUnavailable` where this run is to blame; and `RunnerInterrupted` where it is not.
        """
        message = RunPipeline(document=document, wall_s_max=wall_s_max * self.wall_stretch)
        reply = await self._ask(message, wall_s_max, phase="run", on_stages=on_stages)
        if isinstance(reply, RunnerRefused):
            raise refusal(reply.problem, RUN_REFUSALS)
        if not isinstance(reply, Ran):
            raise self._fail(RunnerFailed(f"the runner answered a run with {type(reply).__name__}"))
        return reply

    @property
    def is_alive(self) -> bool:
        """Whether it takes requests."""
        return self._failure is None

    @property
    def memory_bytes(self) -> int:
        """The memory that is resident; 0 once it has ended."""
        return 0 if self._use is None else self._use.memory.used_bytes()

    @property
    def suspended_s(self) -> float:
        """How long it has been stopped so far."""
        return self._suspension.total_s

    def suspend(self) -> None:
        """Stop the process group until `resume`. A deadline does not count the time that it is stopped."""
        if self._failure is None and not self._suspension.is_on:
            self._suspension.begin()
            self._group.send(signal.SIGSTOP)

    def resume(self) -> None:
        """Let the process group go on."""
        if self._suspension.is_on:
            self._suspension.end()
            if self._failure is None:
                self._group.send(signal.SIGCONT)

    def call_at_end(self, callback: Callable[[], None]) -> None:
        """Call this once the process has ended; at once if it has."""
        if self.ended.is_set():
            callback()
        else:
            self._at_end.append(callback)

    async def close(self) -> None:
        """Kill the process group and wait for its end."""
        self._fail(RunnerInterrupted("the runner was closed"))
        await self.ended.wait()
        if (group := self._group.control_group) is not None:
            await asyncio.to_thread(group.remove)

    async def _begin(self) -> None:
        if self._failure is not None:  # it has ended already, which nothing would tell the request
            raise self._failure
        replies = self._transport.get_pipe_transport(1)
        assert replies is not None
        with suppress(ValueError):  # the pipe was closed: it is about to end
            widen_pipe(replies.get_extra_info("pipe").fileno())
        reply = await self._requests.reply("start", self._policy.start_s_max)
        if not isinstance(reply, Ready):
            raise self._fail(RunnerFailed("the runner did not report that it is ready"))
        self.ready = reply

    def _allow_memory(self, more_bytes: int) -> None:
        assert self._use is not None
        self._use.memory.allow(more_bytes)
        if (group := self._group.control_group) is not None:
            group.allow_memory(more_bytes)

    async def _ask(
        self, message: ToRunner, wall_s_max: float, *, phase: Phase, on_stages: OnStages = ignore_stages
    ) -> FromRunner:
        if self._failure is not None:
            raise RunnerInterrupted(str(self._failure))
        self._outgoing.append(pack_request(message))
        if len(self._outgoing) == 1:
            self._loop.call_soon(self._flush)
        return await self._requests.reply(phase, wall_s_max, on_stages)

    def _flush(self) -> None:
        if self._failure is None:
            self._requests_pipe.writelines(self._outgoing)
        self._outgoing = []

    # What the event loop tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The process has started."""
        assert isinstance(transport, asyncio.SubprocessTransport)
        self._transport = transport
        self.pid = transport.get_pid()
        self._group = ProcessGroup(self.pid)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Take replies from stdout; keep the end of stderr, to tell why it died."""
        if fd == 2:
            self._error_output.feed(data)
            if excess := self._error_output.excess():
                self._fail(failure(f"killed because it wrote {excess}", is_loading=self._requests.is_loading))
            return
        self._received.feed(data)
        try:
            while self._failure is None and (body := self._received.take()) is not None:
                if self._requests.is_empty:
                    raise RunnerFailed("the runner sent a reply without a request")
                self._requests.answer(unpack_from_runner(body))
        except RunnerFailed as error:
            self._fail(error)

    def process_exited(self) -> None:
        """Leave nothing of the group behind."""
        self._group.kill()

    def connection_lost(self, exc: Exception | None) -> None:
        """The process has ended and its pipes are drained."""
        reason = exit_reason(
            self._transport.get_returncode(),
            ran_out_of_memory=self._group.ran_out_of_memory(),
            last_line=self._error_output.last_line(),
        )
        self._fail(failure(reason, is_loading=self._requests.is_loading))
        if not self._requests_pipe.is_closing():
            self._requests_pipe.abort()
        self._transport.close()
        self.ended.set()
        for callback in self._at_end:
            callback()

    def _kill_for(self, excess: str) -> None:
        self._fail(failure(f"killed because it used {excess}", is_loading=self._requests.is_loading))

    def _fail(self, error: TradepostError) -> TradepostError:
        """Kill the process; the first reason counts. Returns the error."""
        if self._failure is not None:
            return error
        self._failure = error
        if self._transport.get_returncode() is None:
            self._group.kill()
        if self._use is not None:
            self._use.stop()
        self._requests.fail(error)
        return error
