"""wav_decode against scipy.io.wavfile, and hostile files against its typed errors."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.io import wavfile

from tradepost.errors import KernelError
from tradepost.pipeline.tensors import TensorDocument

RunBuiltin = Callable[..., TensorDocument]

shapes = st.tuples(st.integers(1, 20), st.integers(1, 3))
DTYPES = [np.uint8, np.int16, np.int32, np.float32, np.float64]
FORMAT_16 = struct.pack("<HHIIHH", 1, 1, 8000, 16000, 2, 16)


def chunk(name: bytes, data: bytes, length: int | None = None) -> bytes:
    return name + struct.pack("<I", len(data) if length is None else length) + data + b"\0" * (len(data) % 2)


def wav(*chunks: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", 4 + sum(map(len, chunks))) + b"WAVE" + b"".join(chunks)


def decoded(run_builtin: RunBuiltin, data: bytes, **metadata: str) -> TensorDocument:
    return run_builtin("wav_decode", {"bytes": np.frombuffer(data, "u1")}, **metadata)


def as_floats(samples: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    """What scipy read, [n, C] or [n], as [C, n] in [-1, 1)."""
    wide = samples.reshape(len(samples), -1).T.astype("f8")
    if samples.dtype == np.uint8:
        return (wide - 128) / 128
    return wide / 2.0 ** (8 * samples.dtype.itemsize - 1) if samples.dtype.kind == "i" else wide


@given(data=st.data(), dtype=st.sampled_from(DTYPES), shape=shapes, rate=st.integers(1, 192000))
def test_it_equals_scipy_bit_for_bit(
    run_builtin: RunBuiltin, data: st.DataObject, dtype: type[np.generic], shape: tuple[int, int], rate: int
) -> None:
    small = np.dtype(dtype).kind == "f"
    elements = st.floats(-(2.0**100), 2.0**100, width=32) if small else None
    samples = data.draw(hnp.arrays(dtype, shape, elements=elements))
    file = io.BytesIO()
    wavfile.write(file, rate, samples)
    result = decoded(run_builtin, file.getvalue())
    read_rate, read = wavfile.read(io.BytesIO(file.getvalue()))
    assert result["rate"].tolist() == [read_rate] == [rate]
    expected = as_floats(read)
    assert np.array_equal(result["samples"], expected.astype("f4"))
    mixed = decoded(run_builtin, file.getvalue(), channels="mix")["samples"]
    total = np.zeros(shape[0])
    for channel in expected:
        total += channel
    assert np.array_equal(mixed, (total / shape[1]).astype("f4")[np.newaxis])


@given(st.lists(st.integers(-(2**23), 2**23 - 1), min_size=2, max_size=30).filter(lambda v: len(v) % 2 == 0))
def test_24_bits_in_the_extended_format_equal_scipy(run_builtin: RunBuiltin, values: list[int]) -> None:
    subformat = bytes.fromhex("0100000000001000800000aa00389b71")
    fields = struct.pack("<HHIIHHHHI", 0xFFFE, 2, 48000, 288000, 6, 24, 22, 24, 3) + subformat
    data = b"".join(value.to_bytes(3, "little", signed=True) for value in values)
    file = wav(chunk(b"LIST", b"odd"), chunk(b"fmt ", fields), chunk(b"data", data))
    result = decoded(run_builtin, file)["samples"]
    with warnings.catch_warnings(action="ignore", category=wavfile.WavFileWarning):
        _, read = wavfile.read(io.BytesIO(file))
    assert np.array_equal(result, as_floats(read).astype("f4"))
    assert np.array_equal(result, (np.array(values) / 2**23).astype("f4").reshape(-1, 2).T)


def test_the_samples_of_a_stream_reach_to_the_end_of_the_file(run_builtin: RunBuiltin) -> None:
    file = wav(chunk(b"fmt ", FORMAT_16), chunk(b"data", b"\0\x40\0\xc0", 0xFFFFFFFF))
    assert decoded(run_builtin, file)["samples"].tolist() == [[0.5, -0.5]]


def test_a_file_without_samples_has_none(run_builtin: RunBuiltin) -> None:
    file = wav(chunk(b"fmt ", FORMAT_16), chunk(b"data", b""))
    assert decoded(run_builtin, file)["samples"].shape == (1, 0)


def fields(tag: int = 1, channels: int = 1, rate: int = 8000, frame: int = 2, bits: int = 16) -> bytes:
    return struct.pack("<HHIIHH", tag, channels, rate, rate * frame % 2**32, frame, bits)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "must begin with RIFF and WAVE"),
        (b"RIFF\0\0\0\0WAV", "must begin with RIFF"),
        (b"OggS" + bytes(60), "must begin with RIFF"),
        (wav(), "no samples"),
        (wav(chunk(b"fmt ", FORMAT_16)), "no samples"),
        (wav(chunk(b"data", b"\0\0")), "before their format"),
        (wav(chunk(b"fmt ", FORMAT_16[:14])), "format chunk has 14 bytes"),
        (wav(chunk(b"fmt ", FORMAT_16), chunk(b"data", b"\0\0", 4)), "4 bytes, but only 2 follow"),
        (wav(chunk(b"junk", b"", 0xFFFFFFFF)), "4294967295 bytes, but only 0 follow"),
        (wav(chunk(b"fmt ", FORMAT_16), chunk(b"data", b"\0")), "1 bytes of samples, not whole frames of 2"),
        (wav(chunk(b"fmt ", fields(tag=2))), "format 2 with 16 bits"),
        (wav(chunk(b"fmt ", fields(tag=0xFFFE))), "extended format chunk has 16"),
        (wav(chunk(b"fmt ", fields(bits=12))), "format 1 with 12 bits"),
        (wav(chunk(b"fmt ", fields(tag=3, bits=16))), "format 3 with 16 bits"),
        (wav(chunk(b"fmt ", fields(channels=0, frame=0))), "0 channels"),
        (wav(chunk(b"fmt ", fields(channels=65, frame=130))), "65 channels"),
        (wav(chunk(b"fmt ", fields(rate=0))), "0 frames a second"),
        (wav(chunk(b"fmt ", fields(rate=2**31))), "2147483648 frames a second"),
        (wav(chunk(b"fmt ", fields(frame=3))), "frames of 3 bytes for 1 channels of 16"),
        (wav(chunk(b"fmt ", fields(tag=3, frame=4, bits=32)), chunk(b"data", b"\0\0\x80\x7f")), "not finite"),
        (
            wav(chunk(b"fmt ", fields(tag=3, frame=8, bits=64)), chunk(b"data", struct.pack("<d", 1e300))),
            "frame 0 is not finite",
        ),
    ],
)
def test_errors_name_the_mistake(run_builtin: RunBuiltin, data: bytes, message: str) -> None:
    with pytest.raises(KernelError, match=message):
        decoded(run_builtin, data)


def test_other_inputs_are_refused(run_builtin: RunBuiltin) -> None:
    with pytest.raises(KernelError, match="rank 2"):
        run_builtin("wav_decode", {"bytes": np.zeros((1, 60), "u1")})
    with pytest.raises(KernelError, match="one of: keep, mix"):
        decoded(run_builtin, wav(), channels="left")


@pytest.mark.extended
@given(st.data())
def test_damaged_files_end_in_samples_or_in_a_message(run_builtin: RunBuiltin, data: st.DataObject) -> None:
    whole = bytearray(wav(chunk(b"fmt ", FORMAT_16), chunk(b"data", bytes(20))))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    try:
        count, message = decoded(run_builtin, bytes(whole[:cut]))["samples"].size, ""
    except KernelError as error:
        count, message = 0, error.detail
    assert count <= 20
    assert message.isprintable()
