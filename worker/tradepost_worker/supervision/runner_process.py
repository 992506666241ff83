"""One runner as the agent sees it: started bare, spoken to over its pipes, watched, killed as a group.

Requests may overlap: they are written as they come and answered in order, so the next one is in the runner
before the last one's reply is out. Only the one at the head runs, so only that one is to blame when the
process dies: its caller gets the reason, the others `RunnerInterrupted`, after which the same run can simply
be asked of another runner. Limits are held from out here, whatever runs inside: the head's deadline, the
memory (RLIMIT_DATA, and resident memory by looking), the threads, the work that nobody asked for, the size of
a message and of all that goes to stderr, the agent's end.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal, Self

import msgspec

from tradepost.errors import (
    InvalidInput,
    InvalidTensorDocument,
    LeaseTimeout,
    NoEligibleWorker,
    PipelineTooCostly,
    Problem,
    RunnerFailed,
    SandboxUnavailable,
    StageFailure,
    TradepostError,
)
from tradepost.pipeline.manifest import Manifest
from tradepost.receipts import StageReport
from tradepost.untrusted_text import plain
from tradepost_worker.runner.messages import (
    COMPILED_BYTES_MAX,
    FromRunner,
    Load,
    Loaded,
    MessageBuffer,
    Ran,
    Reached,
    Ready,
    Refused,
    Run,
    ToRunner,
    pack_request,
    unpack_from_runner,
)
from tradepost_worker.supervision.control_group import ControlGroup, ControlGroups, tasks_max
from tradepost_worker.supervision.idle_watch import IdleWatch
from tradepost_worker.supervision.memory_limit import MemoryLimit

START_S_MAX: Final = 60.0
LOAD_S_MAX: Final = 60.0
#: How much longer than its own deadline a run may take before the process is killed.
GRACE_S: Final = 0.5
#: How long a run that nobody waits for any more may go on: less than starting a runner costs.
ABANDONED_S: Final = 0.1
LOOK_S: Final = 0.05
#: Less time than this that a runner was stopped extends no deadline.
_SUSPENDED_S_MIN: Final = 0.001
#: What the engines may use beyond the pipeline's own limits.
MEMORY_OVERHEAD_BYTES: Final = 256 << 20
_CONTROL_BYTES_MAX: Final = 1 << 20
#: What a pipe holds: most documents pass in one go, instead of both processes waking for every 64 KiB.
_PIPE_BYTES: Final = 1 << 20
_STDERR_TAIL_BYTES: Final = 4096
_STDERR_BYTES_MAX: Final = 1 << 20
_LAST_WORDS_CHARS_MAX: Final = 300

_BOOT: Final = (
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


#: With what a runner may refuse to load, and to run.
_LOAD_REFUSALS: Final = (StageFailure, NoEligibleWorker, PipelineTooCostly)
_RUN_REFUSALS: Final = (
    InvalidInput,
    InvalidTensorDocument,
    LeaseTimeout,
    PipelineTooCostly,
    SandboxUnavailable,
)


_Phase = Literal["start", "load", "run"]

#: Told which stages of a run are done. Raises `RunnerFailed` for what the pipeline does not have.
OnStages = Callable[[tuple[StageReport, ...]], None]


class RunnerInterrupted(RunnerFailed):
    """The runner ended because of something else than this run."""


@dataclass(eq=False, slots=True)
class _Request:
    reply: asyncio.Future[FromRunner]
    wall_s_max: float
    phase: _Phase
    on_stages: OnStages = lambda _: None
    stages: int = 0

    @property
    def killed_after_s(self) -> float:
        """A run ends itself at its deadline, and is killed only if it does not."""
        return self.wall_s_max + (GRACE_S if self.phase == "run" else 0.0)


class RunnerProcess(asyncio.SubprocessProtocol):
    """A runner process. Make it with `start`, end it with `close`."""

    def __init__(self, requests_pipe: asyncio.WriteTransport) -> None:
        self._loop = asyncio.get_running_loop()
        self._requests_pipe = requests_pipe
        self._requests: deque[_Request] = deque()
        self._outgoing: list[bytes] = []
        self._received = MessageBuffer(bytes_max=_CONTROL_BYTES_MAX)
        self._stderr_tail = b""
        self._stderr_bytes = 0
        self._failure: TradepostError | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._memory: MemoryLimit | None = None
        self._group: ControlGroup | None = None
        self._idleness: IdleWatch
        self._look: asyncio.TimerHandle | None = None
        self._suspended_at_s: float | None = None
        self._suspended_s = 0.0
        #: How many times longer a run may take by the runner's own clock, which goes on while it is stopped.
        self.wall_stretch = 1.0
        #: Set once the process has ended.
        self.ended = asyncio.Event()
        self._transport: asyncio.SubprocessTransport
        self.pid: int
        self.ready: Ready

    @classmethod
    async def start(
        cls,
        *,
        threads: int = 1,
        boot: str = _BOOT,
        groups: ControlGroups | None = None,
        on_spawn: Callable[[Self], None] = lambda _: None,
    ) -> Self:
        """A runner, locked down and ready to load. Raises `RunnerFailed`, `SandboxUnavailable`.

        `boot` is the program that it runs; tests and other entry points replace it. `groups` is where it gets
        a control group of its own from, and then it says so among its isolation. `on_spawn` is told of the
        process before it has imported its engines.
        """
        environment = _ENVIRONMENT | {
            name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ
        }
        paths = json.dumps([path for path in sys.path if os.path.isabs(path)])
        loop = asyncio.get_running_loop()
        # Not asyncio's own pipe, which is a socket pair on some versions.
        requests, requests_end = os.pipe()
        _widen(requests_end)
        try:
            requests_pipe, _ = await loop.connect_write_pipe(
                asyncio.BaseProtocol, os.fdopen(requests_end, "wb", buffering=0)
            )
            _, runner = await loop.subprocess_exec(
                lambda: cls(requests_pipe),
                *(sys.executable, "-I", "-B", "-c", boot, paths, str(os.getpid()), str(threads)),
                stdin=requests,
                env=environment,
                cwd="/",
                start_new_session=True,
            )
        finally:
            os.close(requests)  # if there is no runner, this closes the pipe's other end too
        try:
            if groups is not None:
                runner._group = groups.admit(runner.pid)
            on_spawn(runner)
            await runner._begin()
            runner._watch(tasks_max(threads))
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
        assert self._memory is not None
        self._memory.allow(memory_bytes_max + MEMORY_OVERHEAD_BYTES)
        if self._group is not None:
            self._group.allow_memory(memory_bytes_max + MEMORY_OVERHEAD_BYTES)
        self._received.bytes_max = COMPILED_BYTES_MAX + _CONTROL_BYTES_MAX
        message = Load(manifest=manifest, artifacts=dict(artifacts), compiled=dict(compiled or {}))
        reply = await self._ask(message, load_s_max, phase="load")
        self._received.bytes_max = output_bytes_max + _CONTROL_BYTES_MAX
        if isinstance(reply, Refused):
            raise _refusal(reply.problem, _LOAD_REFUSALS)
        if not isinstance(reply, Loaded):
            raise self._fail(RunnerFailed(f"the runner answered a load with {type(reply).__name__}"))
        return reply.compiled

    async def run(self, document: bytes, *, wall_s_max: float, on_stages: OnStages = lambda _: None) -> Ran:
        """Run the loaded pipeline; `on_stages` is told of those that finish while a long run goes on.

        Raises `InvalidInput` or `InvalidTensorDocument` for the document; `LeaseTimeout`, `RunnerFailed` and
        `SandboxUnavailable` where this run is to blame; and `RunnerInterrupted` where it is not.
        """
        reply = await self._ask(
            Run(document=document, wall_s_max=wall_s_max * self.wall_stretch),
            wall_s_max,
            phase="run",
            on_stages=on_stages,
        )
        if isinstance(reply, Refused):
            raise _refusal(reply.problem, _RUN_REFUSALS)
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
        return 0 if self._memory is None else self._memory.used_bytes()

    @property
    def suspended_s(self) -> float:
        """How long it has been stopped so far."""
        ongoing_s = 0.0 if self._suspended_at_s is None else self._loop.time() - self._suspended_at_s
        return self._suspended_s + ongoing_s

    def suspend(self) -> None:
        """Stop the process group until `resume`. A deadline does not count the time that it is stopped."""
        if self._failure is None and self._suspended_at_s is None:
            self._suspended_at_s = self._loop.time()
            self._signal_group(signal.SIGSTOP)

    def resume(self) -> None:
        """Let the process group go on."""
        if self._suspended_at_s is not None:
            self._suspended_s, self._suspended_at_s = self.suspended_s, None
            if self._failure is None:
                self._signal_group(signal.SIGCONT)

    async def close(self) -> None:
        """Kill the process group and wait for its end."""
        self._fail(RunnerInterrupted("the runner was closed"))
        await self.ended.wait()
        if self._group is not None:
            await asyncio.to_thread(self._group.remove)

    async def _begin(self) -> None:
        replies = self._transport.get_pipe_transport(1)
        assert replies is not None
        _widen(replies.get_extra_info("pipe").fileno())
        reply = await self._expect(_Request(self._loop.create_future(), START_S_MAX, phase="start"))
        if not isinstance(reply, Ready):
            raise self._fail(RunnerFailed("the runner did not report that it is ready"))
        self.ready = reply

    async def _ask(
        self,
        message: ToRunner,
        wall_s_max: float,
        *,
        phase: _Phase,
        on_stages: OnStages = lambda _: None,
    ) -> FromRunner:
        if self._failure is not None:
            raise RunnerInterrupted(str(self._failure))
        self._outgoing.append(pack_request(message))
        if len(self._outgoing) == 1:
            self._loop.call_soon(self._flush)
        return await self._expect(_Request(self._loop.create_future(), wall_s_max, phase, on_stages))

    async def _expect(self, request: _Request) -> FromRunner:
        self._requests.append(request)
        if self._requests[0] is request:
            self._watch_head()
        try:
            return await request.reply
        except asyncio.CancelledError:
            if self._requests and self._requests[0] is request:
                self._watch_head()
            raise

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

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Take replies from stdout; keep the end of stderr, to tell why it died."""
        if fd == 2:
            self._stderr_tail = (self._stderr_tail + data)[-_STDERR_TAIL_BYTES:]
            self._stderr_bytes += len(data)
            if self._stderr_bytes > _STDERR_BYTES_MAX:  # reading on would keep the agent busy for nothing
                self._fail(self._blame(f"killed because it wrote {self._stderr_bytes:,} bytes to stderr"))
            return
        self._received.feed(data)
        try:
            while self._failure is None and (body := self._received.take()) is not None:
                self._answer(body)
        except RunnerFailed as error:
            self._fail(error)

    def process_exited(self) -> None:
        """Leave nothing of the group behind."""
        self._kill_group()

    def connection_lost(self, exc: Exception | None) -> None:
        """The process has ended and its pipes are drained."""
        self._fail(self._blame(self._last_words()))
        if not self._requests_pipe.is_closing():
            self._requests_pipe.abort()
        self._transport.close()
        self.ended.set()

    def _answer(self, body: bytes | memoryview) -> None:
        if not self._requests:
            raise RunnerFailed("the runner sent a reply without a request")
        message = unpack_from_runner(body)
        if isinstance(message, Reached):
            self._note_stages(self._requests[0], message.stages)
            return
        request = self._requests.popleft()
        if not request.reply.done():
            request.reply.set_result(message)
        self._watch_head()

    @staticmethod
    def _note_stages(head: _Request, stages: tuple[StageReport, ...]) -> None:
        """Each report has more stages than the one before it, so there are no more reports than stages."""
        if head.phase != "run" or len(stages) <= head.stages:
            raise RunnerFailed("the runner reported stages out of order")
        head.stages = len(stages)
        if not head.reply.done():
            head.on_stages(stages)

    # Limits

    def _watch_head(self) -> None:
        """Set the deadline of the request that now runs."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if not self._requests:
            return
        head = self._requests[0]
        left_s = ABANDONED_S if head.reply.cancelled() else head.killed_after_s
        self._deadline = self._loop.call_later(left_s, self._overdue, head, self.suspended_s)

    def _watch(self, threads_max: int) -> None:
        """Look at what it uses from now on, between runs too: a runner taken over may wait for that."""
        self._memory = MemoryLimit(self.pid, threads_max=threads_max)
        self._idleness = IdleWatch(self.pid)
        self._look = self._loop.call_later(LOOK_S, self._look_at_use, self._memory)

    def _overdue(self, head: _Request, suspended_s: float) -> None:
        if head.reply.cancelled():
            self._fail(RunnerInterrupted("the lease was recalled"))
        elif (more_s := self.suspended_s - suspended_s) > _SUSPENDED_S_MIN:
            self._deadline = self._loop.call_later(more_s, self._overdue, head, self.suspended_s)
        elif head.phase == "start":
            self._fail(RunnerFailed(f"it did not start within {head.wall_s_max:g} s"))
        else:
            what = f"killed after {head.killed_after_s:.1f} s of its {head.phase}"
            self._fail(PipelineTooCostly(what) if head.phase == "load" else LeaseTimeout(what))

    def _look_at_use(self, memory: MemoryLimit) -> None:
        if excess := memory.excess() or self._idleness.excess(is_idle=not self._requests):
            self._fail(self._blame(f"killed because it used {excess}"))
        elif self._failure is None:
            self._look = self._loop.call_later(LOOK_S, self._look_at_use, memory)

    def _blame(self, what: str) -> TradepostError:
        """The end of this process, which says little while it loads: how much an artifact takes differs by
        device, and so does how a compiler or onnxruntime dies of it. Neither side is to blame then."""
        is_loading = bool(self._requests) and self._requests[0].phase == "load"
        return PipelineTooCostly(what) if is_loading else RunnerFailed(what)

    def _fail(self, error: TradepostError) -> TradepostError:
        """Kill the process; the first reason counts. Returns the error."""
        if self._failure is not None:
            return error
        self._failure = error
        if self._transport.get_returncode() is None:
            self._kill_group()
        for timer in (self._deadline, self._look):
            if timer is not None:
                timer.cancel()
        for position, request in enumerate(self._requests):
            if not request.reply.done():
                to_blame = position == 0 and not isinstance(error, RunnerInterrupted)
                request.reply.set_exception(error if to_blame else RunnerInterrupted(str(error)))
        self._requests.clear()
        return error

    def _kill_group(self) -> None:
        self._signal_group(signal.SIGKILL)
        if self._group is not None:
            self._group.kill()

    def _signal_group(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(self.pid, number)

    def _last_words(self) -> str:
        code = self._transport.get_returncode()
        if self._group is not None and self._group.ran_out_of_memory():
            return "the system killed the runner at its memory limit"
        if code is not None and code < 0:
            how = f"was killed by signal {-code} ({signal.strsignal(-code)})"
        else:
            how = f"exited with status {code}"
        lines = self._stderr_tail.decode(errors="replace").strip().splitlines()
        last = plain(lines[-1], chars_max=_LAST_WORDS_CHARS_MAX) if lines else ""
        return f"the runner {how}" + (f": {last}" if last else "")


def _widen(pipe: int) -> None:
    if not hasattr(fcntl, "F_SETPIPE_SZ"):  # Linux alone lets a process say what a pipe holds
        return
    with suppress(PermissionError):  # the user's pipes hold all that the system lets them: slower, not wrong
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def _refusal(problem: Problem, expected: tuple[type[TradepostError], ...]) -> TradepostError:
    error = TradepostError.from_problem(problem.of_a_stranger())
    return error if isinstance(error, expected) else RunnerFailed(f"the runner reported an error: {error}")
