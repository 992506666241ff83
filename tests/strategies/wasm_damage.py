"""Damaged kernels: modules of which a few bytes were changed, mostly so that they stay well-formed.

A flip anywhere is refused by the first check. So most edits are within the code section and keep its form:
an operator becomes another one that takes and gives the same kinds, or a small immediate another small one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from hypothesis import assume
from hypothesis import strategies as st

from mutations import mutated

_CODE_SECTION: Final = 10
#: Opcodes of operators that take and give the same kinds, from the first to the last of each.
_ALIKE: Final = (
    *(range(0x46, 0x50), range(0x51, 0x5B), range(0x5B, 0x61), range(0x61, 0x67)),  # comparisons
    *(range(0x67, 0x6A), range(0x6A, 0x79), range(0x79, 0x7C), range(0x7C, 0x8B)),  # integers
    *(range(0x8B, 0x92), range(0x92, 0x99), range(0x99, 0xA0), range(0xA0, 0xA7)),  # floats
)
_IMMEDIATE: Final = range(0x40)


@st.composite
def damaged_kernels(draw: st.DrawFn, kernels: st.SearchStrategy[bytes]) -> bytes:
    """One of the kernels after one to three edits."""
    kernel = draw(kernels)
    if draw(st.integers(0, 5)) == 5:
        return draw(mutated(kernel))
    damaged = bytearray(kernel)
    anywhere, operators = _code_of(kernel), _operators_in(kernel)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.sampled_from(operators if operators and draw(st.integers(0, 5)) < 5 else anywhere))
        damaged[at] = draw(st.sampled_from(_like(damaged[at])))
    assume(damaged != kernel)
    return bytes(damaged)


def _like(byte: int) -> Sequence[int]:
    """What may stand for a byte that is an operator or a small immediate; else any byte."""
    return next((alike for alike in (*_ALIKE, _IMMEDIATE) if byte in alike), range(256))


@lru_cache(maxsize=16)  # the compiled kernels come again
def _operators_in(kernel: bytes) -> list[int]:
    """Where in the code the bytes stand that are operators, or pass for some."""
    return [at for at in _code_of(kernel) if any(kernel[at] in alike for alike in _ALIKE)]


def _code_of(kernel: bytes) -> range:
    """Where the code section of a well-formed module lies."""
    position = 8
    while position < len(kernel):
        section, (length, start) = kernel[position], _leb(kernel, position + 1)
        if section == _CODE_SECTION:
            return range(start, start + length)
        position = start + length
    raise ValueError("a kernel without code")


def _leb(data: bytes, position: int) -> tuple[int, int]:
    """An unsigned LEB128 number, and where it ends."""
    value = shift = 0
    while data[position] & 0x80:
        value |= (data[position] & 0x7F) << shift
        position, shift = position + 1, shift + 7
    return value | data[position] << shift, position + 1
