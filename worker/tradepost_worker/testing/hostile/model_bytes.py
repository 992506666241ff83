"""Bytes that are no model, or one in disguise."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tradepost_worker.runner.probe_model import PROBE_MODEL
from tradepost_worker.testing.hostile.cases import (
    INVALID_MODEL,
    RETURNED,
    Case,
    flipped,
    literally,
    onnx_case,
)
from tradepost_worker.testing.hostile.protobuf import (
    FLOAT,
    field,
    graph,
    model,
    node,
    tensor,
    varint,
)

FAILED: Final = "model-failure"


# Bytes that are no model


def byte_cases() -> Iterator[Case]:
    """What is no protobuf, no model, or a damaged one."""
    whole = model(graph([node("Add", ("x", "w"), ("y",))], tensors=(tensor("w", FLOAT, (1,), bytes(4)),)))
    refused = {
        "nothing at all": b"",
        "text": b"not a model",
        "a field of 2**63 bytes": b"\x3a" + varint((1 << 63) - 1),
        "a field of 2 GiB": b"\x3a" + varint((1 << 31) - 1) + bytes(100),
        "a number without an end": b"\xff" * 64,
        "a group": b"\x3b" * 1_000,
        "a graph as a number": b"\x38\1",
        "messages 10,000 deep": _nested_messages(9_999),
        "a float where a name belongs": model(graph([b"\x25\0\0\0\0"])),
    }
    for name, data in refused.items():
        yield onnx_case(name, literally(data), INVALID_MODEL)
    yield onnx_case("2 million fields and one", lambda: b"\x08\1" * 2_000_001, INVALID_MODEL, load_s=30.0)
    yield onnx_case("a model in onnxruntime's own format", own_format, INVALID_MODEL)
    yield onnx_case(
        "onnxruntime's own format that passes for protobuf", lambda: disguised(own_format()), INVALID_MODEL
    )
    for position in (3, 12, len(whole) // 2, len(whole) - 1):
        yield onnx_case(f"a model cut at byte {position}", literally(whole[:position]), INVALID_MODEL, FAILED)
    for seed in range(4):
        yield onnx_case(
            f"a model with flipped bits, seed {seed}",
            partial(flipped, whole, seed),
            INVALID_MODEL,
            FAILED,
            RETURNED,
        )
    for seed in range(4):
        yield onnx_case(
            f"a model with wire types changed, seed {seed}",
            partial(_rewired, whole, seed),
            INVALID_MODEL,
            FAILED,
            RETURNED,
        )


def _nested_messages(depth: int) -> bytes:
    body = b""
    for level in range(depth):
        body = field((6, 5, 1)[level % 3], body)
    return field(7, body)


def own_format() -> bytes:
    """The smallest model in onnxruntime's own format."""
    import onnxruntime

    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.ort"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = str(path)
        options.add_session_config_entry("session.save_model_format", "ORT")
        onnxruntime.InferenceSession(PROBE_MODEL, options, providers=["CPUExecutionProvider"])
        return path.read_bytes()


def disguised(own_format: bytes) -> bytes:
    """A model in onnxruntime's format (a flatbuffer with ORTM at byte 4) whose bytes are protobuf as well.

    A flatbuffer begins with the offset of its root, so padding before the root makes these four bytes any
    number. As protobuf, 08 00 09 00 is the field 1 with value 0, and then the tag of a field of eight bytes,
    which takes in ORTM; one more field covers the rest.
    """
    root = int.from_bytes(own_format[:4], "little")
    wanted = 0x090008
    while (wanted - root) % 8:
        wanted += 1 << 24  # changes only the first byte of the field's content
    padding = wanted - root
    total = len(own_format) + padding
    cover = b"\0\0\0\x12"
    for length_bytes in range(1, 6):
        length = varint(total - 8 - len(cover) - length_bytes)
        if len(length) == length_bytes:
            cover += length
            break
    return struct.pack("<I", wanted) + own_format[4:8] + cover + bytes(padding - len(cover)) + own_format[8:]


def _rewired(data: bytes, seed: int) -> bytes:
    rng = random.Random(seed)  # noqa: S311 - damage, not a secret
    damaged = bytearray(data)
    for _ in range(2):
        place = rng.randrange(len(damaged))
        damaged[place] = damaged[place] & ~7 | rng.randrange(8)
    return bytes(damaged)
