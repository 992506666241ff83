"""The hunt for secrets planted in a file, the worker's key, the environment and the agent's memory, and for a
way to send them.

Three kinds of hunter go after it: kernels made for the purpose, models that name files, and arbitrary Python
inside a runner that was taken over after it locked itself down. None may learn it or reach the listener. A
control shows that the hunt would notice: without the lock-down, the same Python finds all of it.
"""

from __future__ import annotations

import ctypes
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from tradepost_worker.testing.hostile.cases import INVALID_MODEL, RETURNED, Case, onnx_case, wasm_case
from tradepost_worker.testing.hostile.module_builders import ECHO, imported, reactor
from tradepost_worker.testing.hostile.protobuf import adding, external
from tradepost_worker.testing.hostile.takeover import attempts, run_unlocked, take_over
from tradepost_worker.testing.hostile.trial import attempt

SECRET: Final = "planted-secret-7c1e5a"  # noqa: S105 - it is there to be looked for
_VARIABLE: Final = "TRADEPOST_API_KEY"
#: Where the secret is planted. Each place gets a secret of its own, so that the control can tell them apart.
_PLACES: Final = ("file", "key", "environment", "memory")
_LISTENER: Final = "listener"
#: What the control has to find. Some systems let nobody read the memory of another process, a parent's least.
_FINDABLE: Final = frozenset({"file", "key", "environment", _LISTENER})


def _secret_of(place: str) -> str:
    return f"{SECRET}-{place}"


@dataclass(frozen=True)
class Catch:
    """What a hunt came back with.

    `attempts` is how many tried, `found` what those that succeeded found; `control` names what the same
    attempts find without the lock-down, and `missed` what they should have found there.
    """

    attempts: int
    found: tuple[str, ...]
    control: tuple[str, ...]
    missed: tuple[str, ...]


@dataclass(frozen=True)
class _Plant:
    folder: Path
    listener: socket.socket
    memory: ctypes.Array[ctypes.c_char]

    @property
    def path(self) -> Path:
        return self.folder / "secret"

    @property
    def key(self) -> Path:
        return self.folder / "worker-key.pem"

    def was_reached(self) -> bool:
        try:
            self.listener.accept()
        except BlockingIOError:
            return False
        return True

    def facts(self) -> dict[str, str | int]:
        """What attempts are told, so that they do not fail for lack of an address."""
        return {
            "path": str(self.path),
            "key": str(self.key),
            "folder": str(self.folder),
            "port": self.listener.getsockname()[1],
            "memory": ctypes.addressof(self.memory),
            "memory_bytes": len(self.memory),
            "secret": SECRET,
        }


async def hunt() -> Catch:
    """Plant the secrets, send every hunter after them, and say what they found; then the control."""
    found: list[str] = []
    with _planted() as plant:
        cases = [*_kernels(), *_models(plant)]
        for case in cases:
            verdict = await attempt(case)
            found += [f"{case.name}: {breach}" for breach in verdict.breaches()]
            if SECRET.encode() in verdict.said:
                found.append(f"{case.name} says it")
        thefts, escapes = attempts(plant.facts())
        found += await take_over(thefts | escapes, secret=SECRET)
        if plant.was_reached():
            found.append("the listener was reached")
        control = await _control(plant, thefts)
    return Catch(
        attempts=len(cases) + len(thefts) + len(escapes),
        found=tuple(found),
        control=control,
        missed=tuple(sorted(_FINDABLE.difference(control))),
    )


async def _control(plant: _Plant, thefts: Mapping[str, str]) -> tuple[str, ...]:
    """The places whose secret the thefts find, and the listener if they reach it, without the lock-down."""
    said = " ".join((await run_unlocked(thefts)).values())
    stolen = [place for place in _PLACES if _secret_of(place) in said]
    return (*stolen, _LISTENER) if plant.was_reached() else tuple(stolen)


@contextmanager
def _planted() -> Iterator[_Plant]:
    before = os.environ.get(_VARIABLE)
    with (
        tempfile.TemporaryDirectory(dir=Path.home()) as name,
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        listener.setblocking(False)
        plant = _Plant(Path(name), listener, ctypes.create_string_buffer(_secret_of("memory").encode()))
        plant.path.write_text(_secret_of("file"))
        plant.key.write_text(_secret_of("key"))
        (plant.folder / "symbolic").symlink_to(plant.path)
        (plant.folder / "hard").hardlink_to(plant.path)
        os.environ[_VARIABLE] = _secret_of("environment")
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
        "the key": str(plant.key),
        "the environment": f"/proc/{os.getpid()}/environ",
    }.items():
        build = partial(adding, external(location, length=len(_secret_of("file"))))
        yield onnx_case(f"a model that names {what}", build, INVALID_MODEL)
