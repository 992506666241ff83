"""Drops a runner's rights to everything but its pipes, before it reads untrusted bytes.

Layers, in this order, each of which is reported as achieved or as refused with the reason, never silently:

- `no_new_privs`: no program that it might start can gain rights; no capabilities, no core dumps (a dump would
  hold a submitter's input), no reading of its memory by others of the same user.
- `rlimits`: no file may grow, few descriptors. There is no RLIMIT_AS, which breaks wasmtime's reservations,
  and no RLIMIT_CPU, since a warm runner works for days: deadlines and memory are the agent's to enforce.
- `landlock`: the kernel denies every path in the file system, and signals and abstract sockets outside;
  `landlock_tcp` where it also denies TCP.
- `seccomp`: an allow list of system calls (`seccomp_filter`).

Landlock binds the calling thread and those it starts later, so the process must have one thread still.
Sources of the constants: Linux `uapi/linux/prctl.h`, `landlock.h`, `seccomp.h`, `capability.h`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
import sys
from typing import Annotated, Final

import msgspec

from tradepost.bounded import Short
from tradepost_worker.runner import seccomp_filter

_DESCRIPTORS_MAX: Final = 32

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NO_NEW_PRIVS: Final = 38

_CAPABILITY_VERSION_3: Final = 0x20080522

_LANDLOCK_CREATE_RULESET: Final = 444  # the same on every architecture
_LANDLOCK_RESTRICT_SELF: Final = 446
_LANDLOCK_CREATE_RULESET_VERSION: Final = 1 << 0
#: ABI version -> all file system access rights that it knows.
_LANDLOCK_FS_RIGHTS: Final = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
_LANDLOCK_NET_RIGHTS: Final = 0b11  # bind and connect TCP, from ABI 4
_LANDLOCK_SCOPES: Final = 0b11  # abstract Unix sockets and signals, from ABI 6
_LANDLOCK_ABI_NET: Final = 4
_LANDLOCK_ABI_SCOPES: Final = 6

_SECCOMP: Final = {"x86_64": 317, "aarch64": 277}
_CAPSET: Final = {"x86_64": 126, "aarch64": 91}
_SECCOMP_SET_MODE_FILTER: Final = 1
_SECCOMP_FILTER_FLAG_TSYNC: Final = 1 << 0


_FEW: Final = msgspec.Meta(max_length=16)


class Isolation(msgspec.Struct, frozen=True):
    """The layers that hold, in the order of this module's head, and why the others do not."""

    achieved: Annotated[tuple[Short, ...], _FEW]
    refused: Annotated[dict[Short, Annotated[str, msgspec.Meta(max_length=1024)]], _FEW]


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when the agent is gone, however it went."""
    if sys.platform == "linux":
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent_pid:
            os.kill(os.getpid(), signal.SIGKILL)


def lock_down() -> Isolation:
    """Give up files, network, programs and other processes, for good. Call it with one thread running."""
    achieved, refused = ["process"], {}
    layers = {
        "no_new_privs": _drop_privileges,
        "rlimits": _set_limits,
        "landlock": _restrict_paths,
        "seccomp": _filter_system_calls,
    }
    for name, apply in layers.items():
        try:
            achieved += [name, *apply()]
        except OSError as error:
            refused[name] = str(error)
    return Isolation(achieved=tuple(achieved), refused=refused)


def _drop_privileges() -> list[str]:
    _require_linux()
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_DUMPABLE, 0)
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0))
    empty_sets = ctypes.create_string_buffer(24)
    _system_call(_number(_CAPSET), header, empty_sets)
    return []


def _set_limits() -> list[str]:
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_MEMLOCK):
        resource.setrlimit(limit, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_DESCRIPTORS_MAX, _DESCRIPTORS_MAX))
    return []


def _restrict_paths() -> list[str]:
    _require_linux()
    if (threads := len(os.listdir("/proc/self/task"))) != 1:
        raise OSError(
            errno.EBUSY, f"{threads} threads are already running, and Landlock would not apply to them"
        )
    abi = _system_call(_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_CREATE_RULESET_VERSION)
    rights = _LANDLOCK_FS_RIGHTS[max(known for known in _LANDLOCK_FS_RIGHTS if known <= abi)]
    net = _LANDLOCK_NET_RIGHTS if abi >= _LANDLOCK_ABI_NET else 0
    scopes = _LANDLOCK_SCOPES if abi >= _LANDLOCK_ABI_SCOPES else 0
    # `struct landlock_ruleset_attr`: what is handled is denied, and no rule allows any of it.
    attributes = struct.pack("=QQQ", rights, net, scopes)
    size = 24 if scopes else 16 if net else 8
    ruleset = _system_call(
        _LANDLOCK_CREATE_RULESET, ctypes.create_string_buffer(attributes, len(attributes)), size, 0
    )
    try:
        _system_call(_LANDLOCK_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return ["landlock_tcp"] if net else []


def _filter_system_calls() -> list[str]:
    _require_linux()
    number = _number(_SECCOMP)
    filters = seccomp_filter.build(platform.machine(), own_pid=os.getpid())
    buffer = ctypes.create_string_buffer(filters, len(filters))
    # `struct sock_fprog`: the number of 8-byte instructions, and where they are.
    program = ctypes.create_string_buffer(struct.pack("@HP", len(filters) // 8, ctypes.addressof(buffer)))
    stray = _system_call(number, _SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_TSYNC, program)
    if stray:
        raise OSError(errno.EBUSY, f"the filter could not be applied to thread {stray}")
    return []


def _require_linux() -> None:
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, f"{sys.platform} does not have this layer")


def _number(by_machine: dict[str, int]) -> int:
    machine = platform.machine()
    if machine not in by_machine:
        raise OSError(errno.ENOSYS, f"the system call numbers of {machine} are unknown")
    return by_machine[machine]


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}: {os.strerror(ctypes.get_errno())}")


def _system_call(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    values = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    result: int = libc.syscall(ctypes.c_long(number), *values)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
