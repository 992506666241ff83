"""bytes_window against magika's own feature extraction, and against a model of it for other parameters."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from magika.magika import Magika
from magika.types.seekable import Seekable

from tradepost.errors import KernelError, KernelMemoryExceeded
from tradepost.pipeline.tensors import TensorDocument

RunBuiltin = Callable[..., TensorDocument]

MAGIKA = {"head": "1024", "tail": "1024", "block": "4096", "pad": "256", "strip": "ascii-whitespace"}
#: Short runs of blanks and of other bytes, so that stripping happens at both ends and near the block's edge.
runs = st.lists(
    st.tuples(st.sampled_from(b" \t\n\r\x0b\x0c\0a\x85\xa0\xff"), st.integers(1, 1500)), max_size=8
).map(lambda parts: b"".join(bytes([byte]) * count for byte, count in parts))


def window(run_builtin: RunBuiltin, data: bytes, **metadata: str) -> list[int]:
    result = run_builtin("bytes_window", {"bytes": np.frombuffer(data, "u1")}, **metadata)["window"]
    assert result.dtype == np.int32
    assert result.shape == (1, result.size)
    values: list[int] = result[0].tolist()
    return values


@given(data=runs | st.binary(max_size=9000))
@example(b"")
@example(b" " * 5000)
@example(b"x" * 4096)
@example(b" " * 4096 + b"x")
def test_it_equals_magika_s_features(run_builtin: RunBuiltin, data: bytes) -> None:
    features = Magika._extract_features_from_seekable(
        Seekable(io.BytesIO(data)),
        beg_size=1024,
        mid_size=0,
        end_size=1024,
        padding_token=256,
        block_size=4096,
        use_inputs_at_offsets=False,
    )
    assert window(run_builtin, data, **MAGIKA) == features.beg + features.end


@given(
    data=st.binary(max_size=40) | st.text(" \nab", max_size=40).map(str.encode),
    head=st.integers(0, 20),
    tail=st.integers(1, 20),
    block=st.integers(0, 20),
    pad=st.integers(-(2**31), 2**31 - 1),
    strip=st.booleans(),
)
def test_other_windows(
    run_builtin: RunBuiltin, data: bytes, head: int, tail: int, block: int, pad: int, strip: bool
) -> None:
    first, last = data[:block], data[max(0, len(data) - block) :]
    if strip:
        first, last = first.lstrip(), last.rstrip()
    first, last = first[:head], last[max(0, len(last) - tail) :]
    expected = [*first, *[pad] * (head - len(first)), *[pad] * (tail - len(last)), *last]
    metadata = {"head": head, "tail": tail, "block": block, "pad": pad}
    assert (
        window(
            run_builtin,
            data,
            **{key: str(value) for key, value in metadata.items()},
            strip="ascii-whitespace" if strip else "none",
        )
        == expected
    )


def test_the_defaults(run_builtin: RunBuiltin) -> None:
    assert window(run_builtin, b" x ") == [*b" x ", *[256] * 2042, *b" x "]


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"head": "0", "tail": "0"}, "both 0"),
        ({"head": "-1"}, "'head' must be a whole number from 0 to 1048576"),
        ({"tail": "1048577"}, "'tail' must be a whole number"),
        ({"block": "all"}, "'block' is 'all'"),
        ({"pad": "2147483648"}, "-2147483648 to 2147483647"),
        ({"strip": "yes"}, "none or ascii-whitespace"),
    ],
)
def test_errors_name_the_mistake(run_builtin: RunBuiltin, metadata: dict[str, str], message: str) -> None:
    with pytest.raises(KernelError, match=message):
        window(run_builtin, b"x", **metadata)


def test_other_inputs_are_refused(run_builtin: RunBuiltin) -> None:
    with pytest.raises(KernelError, match="rank 2"):
        run_builtin("bytes_window", {"bytes": np.zeros((1, 1), "u1")})
    with pytest.raises(KernelError, match="I8; it must be U8"):
        run_builtin("bytes_window", {"bytes": np.zeros(1, "i1")})
    with pytest.raises(KernelMemoryExceeded):
        run_builtin("bytes_window", {"bytes": np.zeros(64 << 20, "u1")})
