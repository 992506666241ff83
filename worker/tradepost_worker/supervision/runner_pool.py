"""The runners of a device: which process runs which pipeline, and which one is evicted.

A runner loads one pipeline and stays warm for it. A job goes to a runner of its pipeline that is idle; else
to a new one while there is room; else, where runs are so short that the way to the runner would show, behind
another run; else it waits its turn. Room is made by ending the runner that was idle longest, but a pipeline
that has a runner already takes another's place only after that one was idle for a while.

What a runner reports is checked against the manifest before anything is signed: the process ran foreign code.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from tradepost.errors import Problem, RunnerFailed, RunnerInterrupted, StageFailure
from tradepost.pipeline.manifest import KernelStage, Manifest
from tradepost.receipts import StageReport, are_first_stages, is_stage_failure
from tradepost_worker.runner.pipeline_run import PipelineRun
from tradepost_worker.supervision.compile_cache import CompileCache
from tradepost_worker.supervision.request_queue import OnStages, ignore_stages
from tradepost_worker.supervision.runner_policy import (
    COMPILE_BYTES_PER_BYTE,
    LOAD_S_MAX,
    MEMORY_OVERHEAD_BYTES,
)
from tradepost_worker.supervision.runner_process import RunnerProcess

#: How many runs a runner may have at once, by how long they take: a run that is there already when the one
#: before it ends hides the way to the runner, which costs some 0.2 ms; a long one would only wait.
_DEPTHS: Final = ((0.005, 4), (0.05, 2))
#: How long a runner stays idle before another pipeline may have its place for a second runner.
IDLE_S: Final = 1.0
#: Loading ends before the lease for which it began, or the worker would be blamed for what blames nobody: a
#: lease lasts for the pipeline's wall-clock limit and a grace, by default of 20 s.
_LOAD_GRACE_S: Final = 15.0


class RunnablePipeline(Protocol):
    """The parts of a trusted pipeline that the pool uses."""

    @property
    def cid(self) -> str:
        """The pipeline's identity."""
        ...

    @property
    def manifest(self) -> Manifest:
        """What runs, within the owner's limits."""
        ...

    async def read_artifacts(self) -> dict[str, bytes]:
        """The kernels and models, by CID."""
        ...


@dataclass(eq=False, slots=True)
class _Slot:
    pipeline: str
    memory_bytes_max: int
    starting: asyncio.Task[RunnerProcess] = field(init=False)
    in_use: int = 0
    idle_since_s: float = 0.0
    mean_run_s: float = 1.0  # long, until a run was measured

    @property
    def depth(self) -> int:
        return next((depth for run_s_max, depth in _DEPTHS if self.mean_run_s < run_s_max), 1)

    @property
    def has_ended(self) -> bool:
        if not self.starting.done():
            return False
        failed = self.starting.cancelled() or self.starting.exception() is not None
        return failed or not self.starting.result().is_alive

    @property
    def may_use_bytes(self) -> int:
        """An idle runner stays as it is; one that works may take all that it is allowed."""
        if self.has_ended:
            return 0
        if self.in_use or not self.starting.done():
            return self.memory_bytes_max
        return self.starting.result().memory_bytes


@dataclass(eq=False, slots=True)
class _Waiting:
    pipeline: RunnablePipeline
    slot: asyncio.Future[_Slot] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class RunnerPool:
    """At most `runners_max` runners, made by `start`. `spare` is one that was started already.

    Before a start that could take the runners beyond `memory_bytes_max`, idle ones end; what those that work
    use together is for the governor to hold. With a `compile_cache`, kernels that a runner of the same
    pipeline compiled are not compiled again. A runner is left alone for `idle_s` seconds after it was used
    before another pipeline gets its place for a second runner.
    """

    def __init__(
        self,
        *,
        runners_max: int,
        start: Callable[[], Awaitable[RunnerProcess]] = RunnerProcess.start,
        spare: RunnerProcess | None = None,
        compile_cache: CompileCache | None = None,
        memory_bytes_max: int = sys.maxsize,
        idle_s: float = IDLE_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.memory_bytes_max = memory_bytes_max
        self._runners_max = runners_max
        self._start = start
        self._spare = spare
        self._compile_cache = compile_cache
        self._idle_s = idle_s
        self._monotonic = monotonic
        self._slots: list[_Slot] = []
        self._waiting: dict[str, deque[_Waiting]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def run(
        self,
        pipeline: RunnablePipeline,
        document: bytes,
        *,
        wall_s_max: float,
        on_stages: OnStages = ignore_stages,
    ) -> PipelineRun:
        """Run `pipeline` on an input document, in a runner of its own.

        `on_stages` is told which stages are done while a long run goes on.

        Raises `InvalidInput` or `InvalidTensorDocument` for the input, `StageFailure` for an artifact that
        cannot be loaded, `LeaseTimeout` after `wall_s_max` seconds of running, and `RunnerFailed`.
        """

        def note(stages: tuple[StageReport, ...]) -> None:
            check_stages(stages, pipeline.manifest)
            on_stages(stages)

        while True:
            slot = await self._acquire(pipeline)
            try:
                process = await asyncio.shield(slot.starting)
                ran = await process.run(document, wall_s_max=wall_s_max, on_stages=note)
                slot.mean_run_s += 0.2 * (ran.wall_us / 1e6 - slot.mean_run_s)
                check_run(ran.run, pipeline.manifest)
                return ran.run
            except RunnerInterrupted:
                continue  # a run is a pure function: ask again
            finally:
                self._release(slot)

    async def close(self) -> None:
        """End every runner. A later run starts a new one."""
        spare, self._spare = self._spare, None
        if spare is not None:
            await spare.close()
        for slot in self._slots:
            self._end(slot)
        self._slots.clear()
        await asyncio.gather(*self._closing)

    def end(self, cid: str) -> None:
        """End the runners of one pipeline at once, whatever they do."""
        for slot in self._slots_of(cid):
            self._slots.remove(slot)
            self._end(slot)
        self._dispatch()

    async def _acquire(self, pipeline: RunnablePipeline) -> _Slot:
        waiting = _Waiting(pipeline)
        self._waiting.setdefault(pipeline.cid, deque()).append(waiting)
        self._dispatch()
        try:
            return await waiting.slot
        except asyncio.CancelledError:
            if waiting.slot.done() and not waiting.slot.cancelled():
                self._release(waiting.slot.result())
            raise

    def _release(self, slot: _Slot) -> None:
        slot.in_use -= 1
        if slot.in_use == 0:
            slot.idle_since_s = self._monotonic()
        if slot.has_ended and slot in self._slots:
            self._slots.remove(slot)
            self._end(slot)
        self._dispatch()

    def _dispatch(self) -> None:
        """Give slots to those that wait, as far as there is room, pipelines taking turns."""
        placed = True
        while placed:
            placed = False
            for cid, queue in list(self._waiting.items()):
                while queue and queue[0].slot.done():  # it gave up
                    queue.popleft()
                if not queue:
                    del self._waiting[cid]
                    continue
                slot = self._place(queue[0].pipeline)
                if slot is not None:
                    slot.in_use += 1
                    queue.popleft().slot.set_result(slot)
                    self._waiting[cid] = self._waiting.pop(cid)  # to the end of the line
                    placed = True
                elif not self._slots_of(cid):
                    break  # else the pipelines that have runners could keep them busy for ever

    def _slots_of(self, cid: str) -> list[_Slot]:
        return [slot for slot in self._slots if slot.pipeline == cid and not slot.has_ended]

    def _place(self, pipeline: RunnablePipeline) -> _Slot | None:
        own = self._slots_of(pipeline.cid)
        least_used = min(own, key=lambda slot: slot.in_use, default=None)
        if least_used is not None and least_used.in_use == 0:
            return least_used
        memory_bytes = bytes_of(pipeline.manifest) + MEMORY_OVERHEAD_BYTES
        if self._make_room(memory_bytes, has_one=bool(own)):
            slot = _Slot(pipeline.cid, memory_bytes)
            slot.starting = asyncio.create_task(self._start_loaded(pipeline, slot))
            self._slots.append(slot)
            return slot
        if least_used is not None and least_used.in_use < least_used.depth:
            return least_used
        return None

    def _make_room(self, memory_bytes: int, *, has_one: bool) -> bool:
        while not self._has_place() or not self._has_memory(memory_bytes):
            idle = [slot for slot in self._slots if slot.in_use == 0]
            if not idle:
                return self._has_place()
            oldest = min(idle, key=lambda slot: slot.idle_since_s)
            if has_one and self._monotonic() - oldest.idle_since_s < self._idle_s:
                return False
            self._slots.remove(oldest)
            self._end(oldest)
        return True

    def _has_place(self) -> bool:
        return len(self._slots) < self._runners_max

    def _has_memory(self, more_bytes: int) -> bool:
        return sum(slot.may_use_bytes for slot in self._slots) + more_bytes <= self.memory_bytes_max

    async def _start_loaded(self, pipeline: RunnablePipeline, slot: _Slot) -> RunnerProcess:
        artifacts = await pipeline.read_artifacts()
        process, self._spare = self._spare, None
        if process is None:
            process = await self._start()
        try:
            compiled = await self._load(process, pipeline, artifacts, slot)
            if compiled:  # by more memory than a run may use: a fresh process has none of it
                await process.close()
                process = await self._start()
                await self._load(process, pipeline, artifacts, slot, compiled=compiled)
        except BaseException as error:
            await process.close()
            if isinstance(error, StageFailure):  # which will be signed
                _check_failure(error.to_problem(), pipeline.manifest)
            raise
        return process

    async def _load(
        self,
        process: RunnerProcess,
        pipeline: RunnablePipeline,
        artifacts: dict[str, bytes],
        slot: _Slot,
        *,
        compiled: Mapping[str, bytes] | None = None,
    ) -> dict[str, bytes]:
        """Load the pipeline, given what was compiled of it.

        If a kernel was allowed more memory for compiling than runs may use, the compiled code of all kernels
        is returned, for another process; else nothing.
        """
        manifest, cache = pipeline.manifest, self._compile_cache
        kernels = {stage.artifact for stage in manifest.stages if isinstance(stage, KernelStage)}
        known = dict(compiled or {})
        if cache is not None and not known:
            known = await asyncio.to_thread(cache.read, process.ready, pipeline.cid, kernels)
        run_bytes = min(bytes_of(manifest), self.memory_bytes_max)
        missing = kernels - known.keys()
        load_bytes = _bytes_to_load(run_bytes, [artifacts[cid] for cid in missing], self.memory_bytes_max)
        self._reserve(slot, load_bytes)
        new = await process.load(
            manifest,
            artifacts,
            memory_bytes_max=load_bytes,
            output_bytes_max=manifest.limits.output_bytes,
            compiled=known,
            load_s_max=min(LOAD_S_MAX, manifest.limits.wall_ms / 1000 + _LOAD_GRACE_S),
        )
        self._reserve(slot, bytes_of(manifest))
        if not new:
            return {}
        if not new.keys() <= kernels:
            raise RunnerFailed("the runner returned compiled code for kernels that are not in its pipeline")
        if cache is not None:
            await asyncio.to_thread(cache.write, process.ready, pipeline.cid, new, known)
        has_all = new.keys() >= missing
        return known | new if load_bytes > run_bytes and has_all else {}

    def _reserve(self, slot: _Slot, memory_bytes: int) -> None:
        """Count this much for a slot; idle runners end if there is not enough."""
        slot.memory_bytes_max = memory_bytes + MEMORY_OVERHEAD_BYTES
        idle = sorted((other for other in self._slots if other.in_use == 0), key=lambda one: one.idle_since_s)
        for other in idle:
            if self._has_memory(0):
                return
            self._slots.remove(other)
            self._end(other)

    def _end(self, slot: _Slot) -> None:
        closing = asyncio.create_task(_close(slot.starting))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)


def _bytes_to_load(run_bytes: int, kernels: Iterable[bytes], bytes_max: int) -> int:
    """How much memory loading may use beyond what the engines take: more than a run if a kernel needs it."""
    compile_bytes = min(COMPILE_BYTES_PER_BYTE * max(map(len, kernels), default=0), bytes_max)
    return compile_bytes if compile_bytes > run_bytes + MEMORY_OVERHEAD_BYTES else run_bytes


def bytes_of(manifest: Manifest) -> int:
    """How much memory a runner of this pipeline may use beyond what the engines take."""
    documents_bytes = manifest.limits.input_bytes + manifest.limits.output_bytes
    return sum(stage.memory_bytes for stage in manifest.stages) + 2 * documents_bytes


def check_stages(stages: tuple[StageReport, ...], manifest: Manifest) -> None:
    """Raise `RunnerFailed` unless these can be the stages that a run has finished while it goes on."""
    if len(stages) >= len(manifest.stages):
        raise RunnerFailed("the runner reported all stages, but no output")
    _check_names(stages, manifest)


def check_run(run: PipelineRun, manifest: Manifest) -> None:
    """Raise `RunnerFailed` unless `run` is something that this pipeline can have come to."""
    names = [stage.name for stage in manifest.stages]
    _check_names(run.stages, manifest)
    if run.failure is None:
        if len(run.stages) != len(names) or len(run.output) > manifest.limits.output_bytes:
            raise RunnerFailed("the runner returned an output that the pipeline does not allow")
    else:
        if run.output:
            raise RunnerFailed("the runner returned both an output and a failure")
        _check_failure(run.failure, manifest)


def _check_names(stages: tuple[StageReport, ...], manifest: Manifest) -> None:
    names = [stage.name for stage in manifest.stages]
    if not are_first_stages(stages, names):
        reported = [report.stage for report in stages]
        raise RunnerFailed(f"the runner reported the stages {reported[:32]} of {names}")


def _check_failure(failure: Problem, manifest: Manifest) -> None:
    if not is_stage_failure(failure.stage, failure.code, {stage.name for stage in manifest.stages}):
        raise RunnerFailed("the runner returned a failure that the pipeline does not allow")


async def _close(starting: asyncio.Task[RunnerProcess]) -> None:
    starting.cancel()
    outcome = (await asyncio.gather(starting, return_exceptions=True))[0]
    if not isinstance(outcome, BaseException):
        await outcome.close()
