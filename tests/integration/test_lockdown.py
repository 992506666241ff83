"""A runner that was taken over: arbitrary Python inside it, after lock-down, finds nothing and sends nothing.

Each attempt also runs in an ordinary process, where it must succeed: an attempt that fails anywhere proves
nothing.
"""

from __future__ import annotations

import ast
import json
import os
import platform
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tradepost.errors import RunnerFailed
from tradepost_worker.supervision.runner_process import RunnerProcess
from tradepost_worker.testing.hostile.takeover import TAKEN_OVER, TAKEN_OVER_UNLOCKED

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"), reason="Linux only"
)

SECRET = "planted-secret-7c1e"

ATTEMPTS = {
    "read a file": "found = open({path!r}).read()",
    "read it through a raw openat2": """
        how = (ctypes.c_uint64 * 3)(0, 0, 0)
        file = call(437, ctypes.c_long(-100), ctypes.c_char_p({path!r}.encode()), how, ctypes.c_long(24))
        found = os.read(file, 100)""",
    "see whether it exists": "found = os.stat({path!r}).st_size",
    "list its folder": "found = os.listdir({folder!r})",
    "write a file": "found = open({path!r} + '.new', 'w').write('x')",
    "delete a file": "found = os.unlink({path!r} + '.spare')",
    "read the agent's environment": "found = open('/proc/%d/environ' % os.getppid(), 'rb').read()",
    "read its own environment file": "found = open('/proc/self/environ', 'rb').read()",
    "connect to a listener": """
        link = socket.socket()
        found = link.connect(('127.0.0.1', {port}))""",
    "connect to an abstract socket": """
        link = socket.socket(socket.AF_UNIX)
        found = link.connect({abstract!r})""",
    "open a listener": "found = socket.create_server(('127.0.0.1', 0))",
    "make a socket pair": "found = socket.socketpair()",
    "start a program": "found = subprocess.run(['/bin/true']).returncode",
    "fork": """
        child = os.fork()
        if child == 0:
            os._exit(0)
        found = os.waitpid(child, 0)""",
    "replace itself": """
        if os.fork() == 0:
            os.execv('/bin/true', ['true'])
        found = os.wait()""",
    "signal the agent": "found = os.kill(os.getppid(), 0)",
    "make a memory file": "found = os.memfd_create('x')",
    "change its limits": """
        limit = (ctypes.c_uint64 * 2)(16, 16)
        found = call({prlimit64}, ctypes.c_int(0), ctypes.c_int(7), limit, None)""",
    "push memory out of sight": """
        libc.valloc.restype = ctypes.c_void_p
        page = ctypes.c_void_p(libc.valloc(4096))
        found = call({madvise}, page, ctypes.c_long(4096), ctypes.c_long(21))""",
    "leave its namespaces": "found = call({unshare}, ctypes.c_long(0))",
}


#: poll(2) marks a descriptor that is closed; fstat(2) may be refused.
OPEN_DESCRIPTORS = """
import select
poll = select.poll()
for number in range(32):
    poll.register(number, 0)
closed = {number for number, events in poll.poll(0) if events & select.POLLNVAL}
found = sorted(set(range(32)) - closed)
"""


@pytest.fixture
def plan(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    (tmp_path / "secret.spare").write_text(SECRET)
    abstract = f"\0tradepost-test-{os.getpid()}"
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_UNIX) as local:
        local.bind(abstract)
        local.listen()
        listener.setblocking(False)
        facts = {
            "path": str(secret),
            "folder": str(tmp_path),
            "port": listener.getsockname()[1],
            "abstract": abstract,
            "unshare": 272 if platform.machine() == "x86_64" else 97,
            "madvise": 28 if platform.machine() == "x86_64" else 233,
            "prlimit64": 302 if platform.machine() == "x86_64" else 261,
        }
        yield {name: textwrap.dedent(code).format(**facts) for name, code in ATTEMPTS.items()}
        with pytest.raises(BlockingIOError):
            listener.accept()


async def report(runner: RunnerProcess, code: str) -> str:
    return (await runner.run(code.encode(), wall_s_max=20)).run.output.decode()


async def test_a_runner_that_was_taken_over_reaches_nothing(plan):
    runner = await RunnerProcess.start(boot=TAKEN_OVER)
    try:
        for name, code in plan.items():
            told = await report(runner, code)
            assert told.startswith("refused: "), f"{name}: {told}"
    finally:
        await runner.close()


async def test_every_attempt_succeeds_without_the_lock_down(plan, tmp_path):
    # The listener must see no connection in the other test; here it is one of the attempts that succeed.
    del plan["connect to a listener"]
    runner = await RunnerProcess.start(boot=TAKEN_OVER_UNLOCKED)
    try:
        for name, code in plan.items():
            told = await report(runner, code)
            assert told.startswith("found: "), f"{name}: {told}"
    finally:
        await runner.close()


#: What `docs/containment.md` says that a runner's environment has.
ENVIRONMENT = {
    "LC_CTYPE",
    "LD_LIBRARY_PATH",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "ORT_DISABLE_TELEMETRY",
}


async def test_a_runner_gets_nothing_of_the_agents_environment_and_descriptors(monkeypatch, tmp_path):
    monkeypatch.setenv("TRADEPOST_API_KEY", SECRET)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    with (tmp_path / "key").open("w+") as file:
        file.write(SECRET)
        file.flush()
        os.set_inheritable(file.fileno(), True)
        runner = await RunnerProcess.start(boot=TAKEN_OVER)
    try:
        environment = await report(runner, "found = dict(os.environ)")
        assert set(ast.literal_eval(environment.removeprefix("found: "))) == ENVIRONMENT
        assert SECRET not in environment
        # stdin is empty, stdout is stderr; and the two pipes.
        assert await report(runner, OPEN_DESCRIPTORS) == "found: [0, 1, 2, 3, 4]"
    finally:
        await runner.close()


async def test_every_layer_is_reported_here():
    runner = await RunnerProcess.start()
    try:
        assert runner.ready.isolation.refused == {}
        layers = ("process", "no_new_privs", "rlimits", "landlock", "seccomp")
        assert set(layers) <= set(runner.ready.isolation.achieved)
        status = Path(f"/proc/{runner.pid}/status").read_text()  # noqa: ASYNC240 - no disk behind it
        assert "Seccomp:\t2" in status
        assert "NoNewPrivs:\t1" in status
        assert "CapEff:\t0000000000000000" in status
    finally:
        await runner.close()


HOARD_THREADS = """
import threading
stay = threading.Event()
threading.stack_size(65536)
while True:
    threading.Thread(target=stay.wait, daemon=True).start()
"""


async def test_a_runner_that_starts_threads_without_end_is_killed():
    runner = await RunnerProcess.start(boot=TAKEN_OVER)
    try:
        with pytest.raises(RunnerFailed, match=r"killed because it used [0-9,]+ threads"):
            await runner.run(HOARD_THREADS.encode(), wall_s_max=20)
    finally:
        await runner.close()


def test_a_layer_that_the_kernel_refuses_is_named():
    # With a second thread, Landlock would not bind it; the report has to say so.
    code = """
import json, threading, sys
sys.path[:] = json.loads(sys.argv[1])
from tradepost_worker.runner.lockdown import lock_down
stay = threading.Event()
threading.Thread(target=stay.wait, daemon=True).start()
isolation = lock_down()
assert "landlock" not in isolation.achieved, isolation
assert "threads are already running" in isolation.refused["landlock"], isolation
assert "seccomp" in isolation.achieved, isolation
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, json.dumps(sys.path)],
        env={"OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
