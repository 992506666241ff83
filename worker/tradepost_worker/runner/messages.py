"""The messages between the agent and its runners over the runner's pipes.

Each message is msgpack behind its length (4 bytes, little-endian). A request also states the length of the
input document, which comes behind it as it is, so that the runner reads it to where it stays. The runner is
not believed: the agent bounds the length before it reads, and decodes strictly, into nothing that would take
much more memory than the message. Requests are answered in order, one reply each; before its reply, a long
run says how far it has come.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from tradepost.bounded import LongCount, Short
from tradepost.errors import UNDECODABLE, Problem, RunnerFailed
from tradepost.pipeline.manifest import STAGES_MAX, Manifest
from tradepost.receipts import StageReport
from tradepost_worker.runner.lockdown import Isolation
from tradepost_worker.runner.pipeline_run import PipelineRun

LENGTH_BYTES: Final = 4

#: Compiled code that passes between agent and runner with one pipeline; more is compiled each time.
COMPILED_BYTES_MAX: Final = 32 << 20


class _Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A message: immutable, nothing unknown accepted."""


class Load(_Message, frozen=True, kw_only=True, tag="load"):
    """Load this pipeline, with its artifacts by CID. Kernels in `compiled` need no compiling."""

    manifest: Manifest
    artifacts: dict[str, bytes]
    compiled: dict[str, bytes] = {}


class RunPipeline(_Message, frozen=True, kw_only=True, tag="run"):
    """Run the loaded pipeline on an input document."""

    document: bytes
    wall_s_max: float


class Ready(_Message, frozen=True, kw_only=True, tag="ready"):
    """The first message: the working isolation layers and providers, and the engines' versions.

    `code` is `engine_hash`: what compiled kernels depend on.
    """

    isolation: Isolation
    providers: Annotated[tuple[Short, ...], msgspec.Meta(max_length=16)]
    engines: Annotated[dict[Short, Short], msgspec.Meta(max_length=16)]
    code: Short


class Loaded(_Message, frozen=True, kw_only=True, tag="loaded"):
    """The pipeline is loaded. `compiled` is the code of the kernels that had to be compiled, by CID, as far
    as it fits `COMPILED_BYTES_MAX` altogether."""

    compiled: Annotated[dict[Short, bytes], msgspec.Meta(max_length=STAGES_MAX)] = {}


class Reached(_Message, frozen=True, kw_only=True, tag="reached"):
    """No reply yet: the run that is under way has finished all of these stages, and has more to do."""

    stages: Annotated[tuple[StageReport, ...], msgspec.Meta(min_length=1, max_length=STAGES_MAX)]


class Ran(_Message, frozen=True, kw_only=True, tag="ran"):
    """The pipeline ended; `wall_us` is how long it took."""

    run: PipelineRun
    wall_us: LongCount


class RunnerRefused(_Message, frozen=True, kw_only=True, tag="refused"):
    """The request could not be answered; the runner is still fit."""

    problem: Problem


ToRunner = Load | RunPipeline
FromRunner = Ready | Loaded | Reached | Ran | RunnerRefused

_encoder = msgspec.msgpack.Encoder()
_to_runner: msgspec.msgpack.Decoder[ToRunner] = msgspec.msgpack.Decoder(ToRunner)
_from_runner: msgspec.msgpack.Decoder[FromRunner] = msgspec.msgpack.Decoder(FromRunner)


def pack(message: FromRunner) -> bytes:
    """The message behind its length."""
    body = _encoder.encode(message)
    return _length(body) + body


def pack_request(message: ToRunner) -> bytes:
    """The message behind two lengths, and its document behind it."""
    document = b""
    if isinstance(message, RunPipeline):
        document, message = message.document, msgspec.structs.replace(message, document=b"")
    body = _encoder.encode(message)
    return b"".join((_length(body), _length(document), body, document))


def _length(data: bytes) -> bytes:
    return len(data).to_bytes(LENGTH_BYTES, "little")


class MessageBuffer:
    """Takes bytes as they come and gives whole message bodies, each of at most `bytes_max`."""

    def __init__(self, *, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self._bytes = bytearray()

    def feed(self, data: bytes) -> None:
        """Add what was read."""
        self._bytes += data

    def take(self) -> memoryview | None:
        """The next body, if it is whole. Raises `RunnerFailed` if it claims to be larger than the cap."""
        if len(self._bytes) < LENGTH_BYTES:
            return None
        length = int.from_bytes(self._bytes[:LENGTH_BYTES], "little")
        if length > self.bytes_max:
            raise RunnerFailed(f"a message of {length:,} bytes on the runner's pipe")
        end = LENGTH_BYTES + length
        if len(self._bytes) < end:
            return None
        # A large message mostly comes alone: its bytes are then given away instead of copied.
        whole, self._bytes = self._bytes, self._bytes[end:]
        return memoryview(whole)[LENGTH_BYTES:end]


def unpack_request(body: bytes, document: bytes) -> ToRunner:
    """A message from the agent."""
    message = _to_runner.decode(body)
    return (
        msgspec.structs.replace(message, document=document) if isinstance(message, RunPipeline) else message
    )


def unpack_from_runner(body: bytes | memoryview) -> FromRunner:
    """A message from the runner. Raises `RunnerFailed` for anything that is not one."""
    try:
        return _from_runner.decode(body)
    except UNDECODABLE as error:
        raise RunnerFailed(f"the runner sent an invalid message: {error}") from None
