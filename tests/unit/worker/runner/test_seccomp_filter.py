"""The seccomp program, run by a small interpreter of classic BPF, and its numbers against the headers."""

from __future__ import annotations

import errno
import re
import struct
from pathlib import Path

import pytest

from tradepost_worker.runner import seccomp_filter

PID = 4711
KILL, ERRNO, ALLOW = 0x8000_0000, 0x0005_0000, 0x7FFF_0000
DENIED = ERRNO | errno.EPERM
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


def verdict(number: int, *arguments: int, machine: str = "x86_64", architecture: int | None = None) -> int:
    if architecture is None:
        architecture = seccomp_filter.ARCHITECTURES[machine][0]
    data = struct.pack("=IIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    program = seccomp_filter.build(machine, own_pid=PID)
    instructions = list(struct.iter_unpack("=HBBI", program))
    position = accumulator = 0
    while True:
        code, if_true, if_false, value = instructions[position]
        position += 1
        if code == 0x20:
            accumulator = struct.unpack_from("=I", data, value)[0]
        elif code == 0x15:
            position += if_true if accumulator == value else if_false
        else:
            assert code == 0x06
            return value


@pytest.mark.parametrize("machine", seccomp_filter.ARCHITECTURES)
def test_what_is_listed_is_allowed(machine):
    column = seccomp_filter.ARCHITECTURES[machine][1]
    for numbers in seccomp_filter.ALLOWED.values():
        if numbers[column] is not None:
            assert verdict(numbers[column], machine=machine) == ALLOW


def test_nothing_else_is_allowed():
    listed = {
        numbers[0]
        for table in (seccomp_filter.ALLOWED, seccomp_filter.ABSENT, seccomp_filter.CONDITIONAL)
        for numbers in table.values()
    }
    for number in set(range(600)) - listed:
        assert verdict(number) == DENIED


@pytest.mark.parametrize("number", [2, 257, 437, 41, 42, 57, 58, 59, 322, 101, 310, 321, 425, 62, 56])
def test_files_sockets_programs_and_other_processes_are_out_of_reach(number):
    # open, openat, openat2, socket, connect, fork, vfork, execve, execveat, ptrace, process_vm_readv, bpf,
    # io_uring_setup, kill, clone (without the flags of a thread)
    assert verdict(number) == DENIED


def test_a_thread_may_be_started_and_a_process_may_not():
    clone, thread = 56, 0x3D0F00
    assert verdict(clone, thread) == ALLOW
    assert verdict(clone, thread | 0x400000) == ALLOW
    assert verdict(clone, 17) == DENIED  # SIGCHLD: fork
    assert verdict(clone, thread & ~0x10000) == DENIED
    assert verdict(clone, thread | 1 << 32) == DENIED
    assert verdict(435) == ERRNO | errno.ENOSYS


def test_conditions_hold_every_argument():
    prctl, prlimit64, tgkill = 157, 302, 234
    assert verdict(prctl, 15) == ALLOW
    assert verdict(prctl, 22) == DENIED  # PR_SET_SECCOMP
    assert verdict(prlimit64, 0, 7, 0) == ALLOW
    assert verdict(prlimit64, 0, 7, 1 << 40) == DENIED  # a new limit
    assert verdict(prlimit64, 1, 7, 0) == DENIED  # of another process
    assert verdict(tgkill, PID) == ALLOW
    assert verdict(tgkill, PID + 1) == DENIED


def test_memory_may_be_given_back_and_not_pushed_out_of_sight():
    madvise, free, cold, page_out = 28, 8, 20, 21
    assert verdict(madvise, 1 << 40, 4096, free) == ALLOW
    for advice in (cold, page_out, free | 1 << 32):
        assert verdict(madvise, 1 << 40, 4096, advice) == DENIED


def test_another_architecture_kills():
    assert verdict(0, architecture=0x40000003) == KILL  # i386
    assert verdict(0x4000_0000) == DENIED  # x32


@pytest.mark.parametrize("machine", seccomp_filter.ARCHITECTURES)
def test_the_numbers_are_those_of_the_kernel_headers(machine):
    if not HEADERS[machine].exists():
        pytest.skip(f"{HEADERS[machine]} is not installed")
    defined = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", HEADERS[machine].read_text()))
    column = seccomp_filter.ARCHITECTURES[machine][1]
    for table in (seccomp_filter.ALLOWED, seccomp_filter.ABSENT, seccomp_filter.CONDITIONAL):
        for name, numbers in table.items():
            number = numbers[column]
            assert name not in defined if number is None else int(defined[name]) == number, name
