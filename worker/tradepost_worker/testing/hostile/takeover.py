"""A runner that was taken over: arbitrary Python inside it, after lock-down, goes after what was planted.

The control sends the same attempts through an ordinary child of the same agent, which inherits its
environment and is not locked down. There they must come back with all that was planted: an attempt that
fails anywhere proves nothing about the sandbox.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sys
import textwrap
from collections.abc import Mapping
from typing import Final

from tradepost.errors import TradepostError
from tradepost_worker.supervision.runner_process import RunnerProcess

_ATTEMPT_S: Final = 20.0
_CONTROL_S: Final = 60.0

#: What an attempt may use. It leaves what it came to in the name `found`. It is refused if the system said
#: that it may not; an attempt that fails in any other way proves nothing, and counts as a hole.
_ARSENAL: Final = """
import ctypes, errno, json, os, socket, subprocess, sys
REFUSALS = (errno.EPERM, errno.EACCES, errno.ENOSYS)
sys.path[:] = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def call(number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
def first(found):
    if not found:
        raise PermissionError(errno.EACCES, "it is not there")
    return found[0]
def attempt(code):
    names = dict(globals())
    try:
        exec(code, names)
        return "found: %r" % (names["found"],)
    except BaseException as error:
        how = "refused" if isinstance(error, OSError) and error.errno in REFUSALS else "failed"
        return "%s: %s: %s" % (how, type(error).__name__, error)
"""

#: What turns a runner into one that executes each request as Python and reports what became of it.
_TAKEN: Final = """
from tradepost_worker.runner import main
from tradepost_worker.runner.pipeline_run import PipelineRun
from tradepost_worker.runner.messages import Ran
def answer(self, request, send):
    report = attempt(request.document.decode())
    return Ran(run=PipelineRun(stages=(), output=report.encode()), wall_us=0)
main.Runner.answer = answer
"""
_NOT_LOCKED: Final = """
from tradepost_worker.runner.lockdown import Isolation
main.lock_down = lambda: Isolation(achieved=(), refused={})
"""
_SERVE: Final = "main.main(int(sys.argv[2]), int(sys.argv[3]))"
#: Such a runner, and one that skips the lock-down.
TAKEN_OVER: Final = _ARSENAL + _TAKEN + _SERVE
TAKEN_OVER_UNLOCKED: Final = _ARSENAL + _TAKEN + _NOT_LOCKED + _SERVE
_UNLOCKED: Final = _ARSENAL + "print(json.dumps([attempt(code) for code in json.load(sys.stdin)]))"

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

#: Ways to something that was planted; the control must come back with all of it.
_THEFTS: Final = {
    "open the file": "found = open({path!r}).read()",
    "open the worker's key": "found = open({key!r}, 'rb').read()",
    "open it with openat2": """
        how = (ctypes.c_uint64 * 3)(0, 0, 0)
        name = ctypes.c_char_p({path!r}.encode())
        file = call({openat2}, ctypes.c_long(-100), name, how, ctypes.c_long(24))
        found = os.read(file, 100)""",
    "read the agent's memory file": """
        memory = os.open('/proc/{agent}/mem', os.O_RDONLY)
        found = os.pread(memory, {memory_bytes}, {memory})""",
    "read the agent's memory": """
        here = ctypes.create_string_buffer({memory_bytes})
        local = (ctypes.c_void_p * 2)(ctypes.addressof(here), {memory_bytes})
        remote = (ctypes.c_void_p * 2)({memory}, {memory_bytes})
        one = ctypes.c_long(1)
        call({process_vm_readv}, ctypes.c_long({agent}), local, one, remote, one, ctypes.c_long(0))
        found = here.raw""",
    "search its own environment": "found = first([one for one in os.environ.values() if {secret!r} in one])",
    "connect to the listener": """
        stream = socket.socket()
        stream.connect(('127.0.0.1', {port}))
        found = stream.getpeername()""",
    "start a program": "found = subprocess.run(['/bin/cat', {path!r}], capture_output=True).stdout",
}

#: Ways out, some of which an ordinary process does not have either.
_ESCAPES: Final = {
    "open it by handle": "found = call({open_by_handle_at}, -100, ctypes.create_string_buffer(64), 0)",
    "see its size": "found = os.stat({path!r}).st_size",
    "list the folder": "found = os.listdir({folder!r})",
    "link to it": "found = os.link({path!r}, '/tmp/hard-link')",
    "write beside it": "found = open({path!r} + '.new', 'w').write('x')",
    "read the agent's environment": "found = open('/proc/{agent}/environ', 'rb').read()",
    "trace the agent": "found = call({ptrace}, ctypes.c_long(16), ctypes.c_long({agent}), None, None)",
    "signal the agent": "found = os.kill({agent}, 0)",
    "hold the agent": "found = call({pidfd_open}, ctypes.c_long({agent}), ctypes.c_long(0))",
    "search its own arguments": "found = first([value for value in sys.orig_argv if {secret!r} in value])",
    "send a datagram": "found = socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))",
    "make a socket pair": "found = socket.socketpair()",
    "connect through io_uring": "found = call({io_uring_setup}, 4, ctypes.create_string_buffer(256))",
    "fork": "found = os.fork()",
    "load a BPF program": "found = call({bpf}, 5, ctypes.create_string_buffer(128), 128)",
    "handle page faults": "found = call({userfaultfd}, ctypes.c_long(1))",
    "count events": "found = call({perf_event_open}, ctypes.create_string_buffer(128), 0, -1, -1, 0)",
    "read the user's keys": "found = call({keyctl}, ctypes.c_long(0), ctypes.c_long(-4), ctypes.c_long(0))",
    "mount": "found = call({mount}, b'none', b'/tmp', b'tmpfs', 0, None)",
    "leave its namespaces": "found = call({unshare}, ctypes.c_long(0x10000000))",
    "make a memory file": "found = os.memfd_create('x')",
}


def attempts(facts: Mapping[str, str | int]) -> tuple[dict[str, str], dict[str, str]]:
    """Thefts and escapes, by name, as Python for the place that `facts` describe: `path`, `key`, `folder`,
    `port`, `secret`, and `memory`, an address in this process that holds `memory_bytes` bytes."""
    column = 0 if platform.machine() == "x86_64" else 1
    numbers = {name: both[column] for name, both in _NUMBERS.items()}
    known = {**facts, **numbers, "agent": os.getpid()}
    thefts, escapes = (
        {name: textwrap.dedent(code).format(**known) for name, code in group.items()}
        for group in (_THEFTS, _ESCAPES)
    )
    return thefts, escapes


async def take_over(codes: Mapping[str, str], *, secret: str) -> list[str]:
    """What Python inside a locked-down runner gets hold of; none of it should be anything."""
    found = []
    runner = await RunnerProcess.start(boot=TAKEN_OVER)
    try:
        for name, code in codes.items():
            ran = await runner.run(code.encode(), wall_s_max=_ATTEMPT_S)
            said = ran.run.output.decode(errors="replace")
            if not said.startswith("refused: ") or secret in said:
                found.append(f"{name}: {said[:200]}")
    except TradepostError as error:
        found.append(f"the runner ended: {error}")
    finally:
        await runner.close()
    return found


async def run_unlocked(codes: Mapping[str, str]) -> dict[str, str]:
    """The control: what the same Python says in an ordinary child of this process, by attempt."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _UNLOCKED, json.dumps([path for path in sys.path if os.path.isabs(path)])),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_CONTROL_S):
            said, _ = await child.communicate(json.dumps(list(codes.values())).encode())
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    return dict(zip(codes, json.loads(said), strict=True))
