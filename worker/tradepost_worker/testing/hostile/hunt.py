"""The hunt for a planted secret, in a file, the worker's key and the environment, and for a way to send it.

Three kinds of hunter go after it: kernels made for the purpose, models that name files, and arbitrary Python
inside a runner that was taken over after it locked itself down. None may learn it or reach the listener.
"""

from __future__ import annotations

import os
import platform
import socket
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from tradepost.errors import TradepostError
from tradepost_worker.runner_process import RunnerProcess
from tradepost_worker.testing.hostile.cases import INVALID_MODEL, RETURNED, Case, onnx_case, wasm_case
from tradepost_worker.testing.hostile.module_builders import ECHO, imported, reactor
from tradepost_worker.testing.hostile.protobuf import adding, external
from tradepost_worker.testing.hostile.trial import attempt

SECRET: Final = "planted-secret-7c1e5a"  # noqa: S105 - it is there to be looked for
_VARIABLE: Final = "TRADEPOST_API_KEY"
_ATTEMPT_S: Final = 20.0

#: A runner that executes each request as Python and reports what the name `found` came to.
TAKEN_OVER: Final = """
import ctypes, json, os, socket, subprocess, sys
sys.path[:] = json.loads(sys.argv[1])
from tradepost_worker import runner
from tradepost_worker.pipeline_run import PipelineRun
from tradepost_worker.runner_messages import Ran
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def call(number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
def answer(self, request, send):
    names = dict(globals())
    try:
        exec(request.document.decode(), names)
        report = "found: %r" % (names["found"],)
    except BaseException as error:
        report = "refused: %s: %s" % (type(error).__name__, error)
    return Ran(run=PipelineRun(stages=(), output=report.encode()), wall_us=0)
runner.Runner.answer = answer
"""
_SERVE: Final = "runner.main(int(sys.argv[2]), int(sys.argv[3]))"

#: x86-64 and arm64 numbers of the calls that Python has no name for.
_NUMBERS: Final = {
    "openat2": (437, 437),
    "open_by_handle_at": (304, 265),
    "process_vm_readv": (310, 270),
    "ptrace": (101, 117),
    "io_uring_setup": (425, 425),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "pidfd_open": (434, 434),
    "keyctl": (250, 219),
    "mount": (165, 40),
    "unshare": (272, 97),
}

_ATTEMPTS: Final = {
    "open the file": "found = open({path!r}).read()",
    "open the worker's key": "found = open({key!r}, 'rb').read()",
    "open it with openat2": """
        how = (ctypes.c_uint64 * 3)(0, 0, 0)
        name = ctypes.c_char_p({path!r}.encode())
        file = call({openat2}, ctypes.c_long(-100), name, how, ctypes.c_long(24))
        found = os.read(file, 100)""",
    "open it by handle": "found = call({open_by_handle_at}, -100, ctypes.create_string_buffer(64), 0)",
    "see its size": "found = os.stat({path!r}).st_size",
    "list the folder": "found = os.listdir({folder!r})",
    "link to it": "found = os.link({path!r}, '/tmp/hard-link')",
    "write beside it": "found = open({path!r} + '.new', 'w').write('x')",
    "read the agent's environment": "found = open('/proc/{agent}/environ', 'rb').read()",
    "read the agent's memory file": "found = open('/proc/{agent}/mem', 'rb').read(1)",
    "read the agent's memory": """
        here = ctypes.create_string_buffer(64)
        vector = (ctypes.c_void_p * 2)(ctypes.addressof(here), 64)
        one = ctypes.c_long(1)
        found = call({process_vm_readv}, ctypes.c_long({agent}), vector, one, vector, one, 0)""",
    "trace the agent": "found = call({ptrace}, ctypes.c_long(16), ctypes.c_long({agent}), None, None)",
    "signal the agent": "found = os.kill({agent}, 0)",
    "hold the agent": "found = call({pidfd_open}, ctypes.c_long({agent}), ctypes.c_long(0))",
    "search its own environment": "found = [text for text in os.environ.values() if {secret!r} in text][0]",
    "search its own arguments": "found = [value for value in sys.orig_argv if {secret!r} in value][0]",
    "connect to the listener": "found = socket.create_connection(('127.0.0.1', {port}), timeout=2)",
    "send a datagram": "found = socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))",
    "make a socket pair": "found = socket.socketpair()",
    "connect through io_uring": "found = call({io_uring_setup}, 4, ctypes.create_string_buffer(256))",
    "start a program": "found = subprocess.run(['/bin/cat', {path!r}], capture_output=True).stdout",
    "fork": "found = os.fork()",
    "load a BPF program": "found = call({bpf}, 5, ctypes.create_string_buffer(128), 128)",
    "handle page faults": "found = call({userfaultfd}, ctypes.c_long(1))",
    "count events": "found = call({perf_event_open}, ctypes.create_string_buffer(128), 0, -1, -1, 0)",
    "read the user's keys": "found = call({keyctl}, ctypes.c_long(0), ctypes.c_long(-4), ctypes.c_long(0))",
    "mount": "found = call({mount}, b'none', b'/tmp', b'tmpfs', 0, None)",
    "leave its namespaces": "found = call({unshare}, ctypes.c_long(0x10000000))",
    "make a memory file": "found = os.memfd_create('x')",
}


@dataclass(frozen=True)
class Catch:
    """What a hunt came back with: how many tried, and what those that succeeded found."""

    attempts: int
    found: tuple[str, ...]


@dataclass(frozen=True)
class _Plant:
    folder: Path
    listener: socket.socket

    @property
    def path(self) -> Path:
        return self.folder / "secret"

    def was_reached(self) -> bool:
        try:
            self.listener.accept()
        except BlockingIOError:
            return False
        return True


async def hunt() -> Catch:
    """Plant the secret, send every hunter after it, and say what they found."""
    found: list[str] = []
    with _planted() as plant:
        cases = [*_kernels(), *_models(plant)]
        for case in cases:
            verdict = await attempt(case)
            found += [f"{case.name}: {breach}" for breach in verdict.breaches()]
            if SECRET.encode() in verdict.said:
                found.append(f"{case.name} says it")
        plans = _plans(plant)
        found += await _take_over(plans)
        if plant.was_reached():
            found.append("the listener was reached")
    return Catch(attempts=len(cases) + len(plans), found=tuple(found))


@contextmanager
def _planted() -> Iterator[_Plant]:
    before = os.environ.get(_VARIABLE)
    with (
        tempfile.TemporaryDirectory(dir=Path.home()) as name,
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        listener.setblocking(False)
        plant = _Plant(Path(name), listener)
        plant.path.write_text(SECRET)
        (plant.folder / "worker-key.pem").write_text(SECRET)
        (plant.folder / "symbolic").symlink_to(plant.path)
        (plant.folder / "hard").hardlink_to(plant.path)
        os.environ[_VARIABLE] = SECRET
        try:
            yield plant
        finally:
            if before is None:
                del os.environ[_VARIABLE]
            else:
                os.environ[_VARIABLE] = before


def _kernels() -> Iterator[Case]:
    """Kernels that trap if a host call gives them anything."""
    for name in ("environ_sizes_get", "args_sizes_get"):
        yield _trap_if(
            f"a kernel that asks {name}",
            "(drop (call $host (i32.const 0) (i32.const 4))) (i64.ne (i64.load (i32.const 0)) (i64.const 0))",
            name,
        )
    opened = "(i32.eqz (call $host (i32.add (local.get $fd) (i32.const 3)) {rest}))"
    every = (
        "(loop $next (if {opened} (then unreachable)) (local.set $fd (i32.add (local.get $fd) (i32.const 1)))"
        " (br_if $next (i32.lt_u (local.get $fd) (i32.const 64)))) (i32.const 0)"
    )
    for name, rest in (
        ("fd_prestat_get", "(i32.const 0)"),
        ("fd_prestat_dir_name", "(i32.const 0) (i32.const 64)"),
        ("fd_read", "(i32.const 0) (i32.const 1) (i32.const 8)"),
        ("fd_write", "(i32.const 0) (i32.const 1) (i32.const 8)"),
        ("fd_fdstat_get", "(i32.const 0)"),
    ):
        check = every.format(opened=opened.format(rest=rest))
        yield _trap_if(f"a kernel that tries {name} on every descriptor", check, name)
    for name in ("path_open", "sock_send", "fd_readdir"):
        build = partial(reactor, imports=imported(name))
        yield wasm_case(f"a kernel that imports {name}", build, "invalid-kernel")


def _trap_if(name: str, condition: str, host: str) -> Case:
    body = f"(local $fd i32) {condition} (if (then unreachable)) {ECHO}"
    return wasm_case(name, partial(reactor, body, imports=imported(host)), RETURNED)


def _models(plant: _Plant) -> Iterator[Case]:
    home = Path.home()
    up = "../" * 16 + str(plant.path).lstrip("/")
    for what, location in {
        "its path": str(plant.path),
        "a path with ..": up,
        "a symbolic link": str(plant.folder / "symbolic"),
        "a hard link": str(plant.folder / "hard"),
        "a path within home": str(plant.path.relative_to(home)),
        "the key": str(plant.folder / "worker-key.pem"),
        "the environment": f"/proc/{os.getpid()}/environ",
    }.items():
        build = partial(adding, external(location, length=len(SECRET)))
        yield onnx_case(f"a model that names {what}", build, INVALID_MODEL)


def _plans(plant: _Plant) -> dict[str, str]:
    column = 0 if platform.machine() == "x86_64" else 1
    facts = {
        "path": str(plant.path),
        "key": str(plant.folder / "worker-key.pem"),
        "folder": str(plant.folder),
        "port": plant.listener.getsockname()[1],
        "agent": os.getpid(),
        "secret": SECRET,
    } | {name: numbers[column] for name, numbers in _NUMBERS.items()}
    return {name: textwrap.dedent(code).format(**facts) for name, code in _ATTEMPTS.items()}


async def _take_over(plans: dict[str, str]) -> list[str]:
    """What Python inside a locked-down runner gets hold of; none of it should be anything."""
    found = []
    runner = await RunnerProcess.start(boot=TAKEN_OVER + _SERVE)
    try:
        for name, code in plans.items():
            ran = await runner.run(code.encode(), wall_s_max=_ATTEMPT_S)
            said = ran.run.output.decode(errors="replace")
            if not said.startswith("refused: ") or SECRET in said:
                found.append(f"{name}: {said[:200]}")
    except TradepostError as error:
        found.append(f"the runner ended: {error}")
    finally:
        await runner.close()
    return found
