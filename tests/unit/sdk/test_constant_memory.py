"""A file of any size is addressed in constant memory: what a process ever held is measured, not believed."""

from __future__ import annotations

import subprocess
import sys

import pytest

# The reader makes up its bytes, different in each chunk, so that nothing is on disk and nothing is shared.
ADDRESS = """
import io, re, sys
from tradepost.content import add_stream

class Synthetic(io.RawIOBase):
    def __init__(self, size):
        self.left, self.chunk, self.number = size, bytearray(1 << 20), 0

    def readable(self):
        return True

    def readinto(self, buffer):
        count = min(len(buffer), self.left, len(self.chunk))
        self.number += 1
        self.chunk[:8] = self.number.to_bytes(8, "big")
        buffer[:count] = self.chunk[:count]
        self.left -= count
        return count

def peak_kib():
    # Not ru_maxrss, which a child process inherits from the one that started it.
    with open("/proc/self/status") as status:
        return int(re.search(r"VmHWM:\\s+(\\d+) kB", status.read())[1])

kept = []
put = {"forget": None, "keep": lambda cid, block: kept.append(block)}[sys.argv[2]]
add_stream(Synthetic(1 << 20), put=None)
before = peak_kib()
add_stream(Synthetic(int(sys.argv[1])), put=put)
print(peak_kib() - before)
"""
GROWTH_KIB_MAX = 32 << 10


def growth_kib(size_bytes: int, blocks: str) -> int:
    command = [sys.executable, "-c", ADDRESS, str(size_bytes), blocks]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_a_file_of_two_gibibytes_is_addressed_in_constant_memory() -> None:
    assert growth_kib(2 << 30, "forget") < GROWTH_KIB_MAX
    assert growth_kib(64 << 20, "keep") > GROWTH_KIB_MAX  # what is kept would be seen
