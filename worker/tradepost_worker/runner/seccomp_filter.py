"""Builds the seccomp program of a runner: an allow list, everything else fails with EPERM.

What is left is what the interpreter, wasmtime and onnxruntime need in order to compute: memory, threads of
this process, clocks, signals to itself, and reading and writing descriptors that are open already. There is
no system call left that opens a file, makes a socket, starts a program or touches another process.

The program is classic BPF over `struct seccomp_data`. Sources of the constants: Linux `uapi/linux/seccomp.h`,
`filter.h`, `bpf_common.h`, `audit.h`; system call numbers from `asm/unistd_64.h` (x86-64) and
`asm-generic/unistd.h` (arm64).
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Final

#: `platform.machine()` -> (AUDIT_ARCH_*, column in the tables below).
ARCHITECTURES: Final[Mapping[str, tuple[int, int]]] = MappingProxyType(
    {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
)

#: Allowed whatever their arguments. `None`: the architecture has no such call.
ALLOWED: Final[Mapping[str, tuple[int | None, int | None]]] = MappingProxyType(
    {
        "brk": (12, 214),
        "clock_getres": (229, 114),
        "clock_gettime": (228, 113),
        "clock_nanosleep": (230, 115),
        "close": (3, 57),
        "exit": (60, 93),
        "exit_group": (231, 94),
        "fstat": (5, 80),
        "futex": (202, 98),
        "futex_waitv": (449, 449),
        "getcpu": (309, 168),
        "getegid": (108, 177),
        "geteuid": (107, 175),
        "getgid": (104, 176),
        "getpid": (39, 172),
        "getrandom": (318, 278),
        "getrusage": (98, 165),
        "gettid": (186, 178),
        "gettimeofday": (96, 169),
        "getuid": (102, 174),
        "lseek": (8, 62),
        "membarrier": (324, 283),
        "mmap": (9, 222),
        "mprotect": (10, 226),
        "mremap": (25, 216),
        "munmap": (11, 215),
        "nanosleep": (35, 101),
        "poll": (7, None),
        "ppoll": (271, 73),
        "read": (0, 63),
        "readv": (19, 65),
        "restart_syscall": (219, 128),
        "rseq": (334, 293),
        "rt_sigaction": (13, 134),
        "rt_sigprocmask": (14, 135),
        "rt_sigreturn": (15, 139),
        "sched_getaffinity": (204, 123),
        "sched_yield": (24, 124),
        "set_robust_list": (273, 99),
        "sigaltstack": (131, 132),
        "sysinfo": (99, 179),
        "time": (201, None),
        "uname": (63, 160),
        "write": (1, 64),
        "writev": (20, 66),
    }
)

#: Answered with ENOSYS, so that callers take the older way: `clone3` hides its flags from a filter, and
#: wasmtime copies a module's data where it cannot map it from a memory file.
ABSENT: Final[Mapping[str, tuple[int, int]]] = MappingProxyType(
    {"clone3": (435, 435), "memfd_create": (319, 279)}
)

#: Allowed only with these arguments, `(index, value)`; several entries for one call are alternatives.
CONDITIONAL: Final[Mapping[str, tuple[int, int]]] = MappingProxyType(
    {
        "clone": (56, 220),
        "madvise": (28, 233),
        "prctl": (157, 167),
        "prlimit64": (302, 261),
        "tgkill": (234, 131),
    }
)
#: MADV_NORMAL, RANDOM, SEQUENTIAL, WILLNEED, DONTNEED, FREE, HUGEPAGE, NOHUGEPAGE, DONTDUMP, DODUMP. Not
#: PAGEOUT: what is in swap is not resident, and who looks at resident memory from outside would miss it.
_ADVICE: Final = (0, 1, 2, 3, 4, 8, 14, 15, 16, 17)
#: CLONE_VM, FS, FILES, SIGHAND, THREAD, SYSVSEM, SETTLS, PARENT_SETTID, CHILD_CLEARTID: a thread, no process.
_PTHREAD_FLAGS: Final = 0x3D0F00
_PTHREAD_FLAGS_MUSL: Final = _PTHREAD_FLAGS | 0x400000  # and CLONE_DETACHED
_PR_SET_NAME: Final = 15

_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K
_KILL_PROCESS: Final = 0x8000_0000
_ERRNO: Final = 0x0005_0000
_ALLOW: Final = 0x7FFF_0000
_OFFSET_NUMBER: Final = 0
_OFFSET_ARCHITECTURE: Final = 4
_OFFSET_ARGUMENTS: Final = 16

_Condition = tuple[int, int]


def build(machine: str, *, own_pid: int) -> bytes:
    """The program (an array of `struct sock_filter`) for a process with this id. Raises `KeyError` for a
    machine that is not in `ARCHITECTURES`."""
    architecture, column = ARCHITECTURES[machine]
    program = [
        _instruction(_LOAD, _OFFSET_ARCHITECTURE),
        _instruction(_JUMP_EQUAL, architecture, if_true=1),
        # Another architecture's numbering (32-bit calls) would make every comparison below meaningless.
        _instruction(_RETURN, _KILL_PROCESS),
    ]
    conditional: list[tuple[str, list[_Condition]]] = [
        ("clone", [(0, _PTHREAD_FLAGS)]),
        ("clone", [(0, _PTHREAD_FLAGS_MUSL)]),
        *(("madvise", [(2, advice)]) for advice in _ADVICE),
        ("prctl", [(0, _PR_SET_NAME)]),
        ("prlimit64", [(0, 0), (2, 0)]),  # of this process, reading only
        ("tgkill", [(0, own_pid)]),  # how abort() raises SIGABRT
    ]
    for name, conditions in conditional:
        program += _rule(CONDITIONAL[name][column], conditions, _ALLOW)
    for numbers in ABSENT.values():
        program += _rule(numbers[column], [], _ERRNO | errno.ENOSYS)
    program.append(_instruction(_LOAD, _OFFSET_NUMBER))
    for number in _present(numbers[column] for numbers in ALLOWED.values()):
        program.append(_instruction(_JUMP_EQUAL, number, if_false=1))
        program.append(_instruction(_RETURN, _ALLOW))
    program.append(_instruction(_RETURN, _ERRNO | errno.EPERM))
    return b"".join(program)


def _present(numbers: Iterable[int | None]) -> Iterator[int]:
    return (number for number in numbers if number is not None)


def _rule(number: int, conditions: list[_Condition], action: int) -> list[bytes]:
    """Return `action` for system call `number` if all 64-bit arguments are as `conditions` say."""
    comparisons = [(_OFFSET_NUMBER, number)]
    for index, value in conditions:
        offset = _OFFSET_ARGUMENTS + 8 * index  # both architectures are little-endian: low word first
        comparisons += [(offset, value & 0xFFFF_FFFF), (offset + 4, value >> 32)]
    rule: list[bytes] = []
    for position, (offset, value) in enumerate(comparisons):
        past_the_rule = 2 * (len(comparisons) - position - 1) + 1
        rule.append(_instruction(_LOAD, offset))
        rule.append(_instruction(_JUMP_EQUAL, value, if_false=past_the_rule))
    return [*rule, _instruction(_RETURN, action)]


def _instruction(code: int, value: int, *, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
