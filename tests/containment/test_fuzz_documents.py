"""Hostile tensor documents: our reader and the built-in kernels read or refuse them, each time alike.

Some documents are what a kernel asks for, some are such ones with damage, and some say in well-formed JSON
what cannot be: sizes that lie, overflow or do not match, and lengths that reach beyond the end.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

import tradepost_kernels
from mutations import mutated
from tradepost.errors import InvalidTensorDocument, KernelError, KernelMemoryExceeded, KernelOutOfFuel
from tradepost.pipeline.tensors import Tensor, TensorDocument, decode, encode
from tradepost_worker.runner.kernel_sandbox import Kernel, Sandbox

SIZES = st.one_of(
    st.integers(0, 8), st.sampled_from([-1, 1 << 31, 1 << 32, 1 << 63, 1 << 64, 1.5, "3", None])
)
TENSORS = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["U8", "F32", "I32", "F64", "BOOL", "BF16", "X9", ""]),
        "shape": st.lists(SIZES, max_size=5),
        "data_offsets": st.lists(SIZES, max_size=3),
    }
)
METADATA = st.dictionaries(
    st.sampled_from(
        ["size", "scale", "mean", "std", "k", "labels", "head", "tail", "activation", "length", "x"]
    ),
    st.one_of(
        st.text(max_size=12), st.sampled_from(["1e999", "-0", "0", "99999999999999999999", "1,2", "softmax"])
    ),
    max_size=4,
)
NAMED = st.dictionaries(
    st.sampled_from(["image", "scores", "boxes", "bytes", "text", "vocabulary", "x", "é", ""]),
    TENSORS,
    max_size=3,
)


@st.composite
def lying(draw: st.DrawFn) -> bytes:
    """A document whose header is JSON of about the right form, and whose lengths may lie."""
    header = dict(draw(NAMED))
    if draw(st.booleans()):
        header["__metadata__"] = draw(METADATA)
    text = json.dumps(header, ensure_ascii=draw(st.booleans())).encode()
    text += b" " * draw(st.integers(0, 9))
    if draw(st.integers(0, 3)) == 0:
        text = text[: draw(st.integers(0, len(text)))]
    length = draw(st.one_of(st.just(len(text)), st.integers(0, (1 << 64) - 1)))
    return length.to_bytes(8, "little") + text + draw(st.binary(max_size=64))


@dataclass(frozen=True)
class Wanted:
    """What a kernel takes: tensors by name, each with dtype and shape, and metadata.

    A letter in a shape is one drawn length, the same in all tensors of the kernel. Where a tensor has
    `contents`, half of the documents have these bytes, or bytes made by mutating them.
    """

    tensors: dict[str, tuple[type[np.generic], tuple[str | int, ...]]]
    metadata: dict[str, str] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)


WAV = b"RIFF\x30\0\0\0WAVEfmt \x10\0\0\0\x01\0\x02\0\x40\x1f\0\0\0\x7d\0\0\x04\0\x10\0data\x0c\0\0\0" + bytes(
    range(12)
)
VOCABULARY = b"[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n##b\n\xc3\xa9\n.\n"

WANTED = {
    "normalize": Wanted(
        {"image": (np.uint8, ("h", "w", 3))}, {"size": "4,4", "mean": "0.5", "std": "0.5", "scale": "255"}
    ),
    "topk": Wanted({"scores": (np.float32, ("n", "k"))}, {"k": "2", "activation": "softmax"}),
    "bytes_window": Wanted({"bytes": (np.uint8, ("n",))}, {"head": "4", "tail": "4"}),
    "checksum": Wanted({"x": (np.float64, ("n", "k"))}),
    "noop": Wanted({"x": (np.int32, ("n", "k"))}),
    "resize": Wanted(
        {"image": (np.uint8, ("h", "w", 3))},
        {"size": "4,4", "fit": "letterbox", "filter": "bicubic", "pad": "9"},
    ),
    "nms": Wanted(
        {"boxes": (np.float32, ("n", 4)), "scores": (np.float32, ("n", "k")), "placed": (np.int32, (6,))},
        {"pick": "all", "across": "all", "iou": "0.1", "score_min": "-1000", "keep": "3"},
    ),
    "wav_decode": Wanted({"bytes": (np.uint8, ("n",))}, {"channels": "mix"}, {"bytes": WAV}),
    "log_mel": Wanted(
        {"samples": (np.float32, ("n",)), "rate": (np.int32, (1,))},
        {"rate": "8", "n_fft": "4", "hop": "1", "n_mels": "2", "norm": "slaney", "log": "whisper"},
    ),
    "crop_rotate": Wanted(
        {"image": (np.uint8, ("h", "w", 3)), "quads": (np.float32, ("n", 4, 2))},
        {"height": "3", "width": "5", "fit": "stretch", "turn": "0.5"},
    ),
    "ctc_decode": Wanted(
        {"scores": (np.float32, ("n", "t", "k")), "labels": (np.uint8, ("b",))},
        {"activation": "softmax", "blank": "1"},
        {"labels": b"a\nb\n\xc3\xa9"},
    ),
    "pool_normalize": Wanted(
        {"hidden": (np.float32, ("n", "t", "d")), "mask": (np.int64, ("n", "t"))}, {"pool": "max"}
    ),
    "wordpiece": Wanted(
        {"text": (np.uint8, ("n",)), "vocabulary": (np.uint8, ("b",)), "text_end": (np.int32, ("m",))},
        {"length": "5", "padding": "length", "lowercase": "no"},
        {"text": "aab. \u00c9 \u6f22\uac00".encode(), "vocabulary": VOCABULARY},
    ),
    "threshold": Wanted({"scores": (np.float32, ("n", "k"))}, {"value": "0.5", "compare": "below"}),
    "quantize": Wanted({"x": (np.float32, ("n", "k"))}, {"scale": "0.5", "zero_point": "-3", "dtype": "i8"}),
    "sample_stats": Wanted({"x": (np.float32, ("n", "k"))}, {"bins": "3", "low": "-1", "high": "1e9"}),
    "delta_filter": Wanted(
        {"x": (np.float32, ("n",)), "last": (np.float32, ("n",)), "age": (np.float32, (1,))},
        {"measure": "share", "change": "0.5", "due": "10"},
    ),
    "segments": Wanted(
        {"scores": (np.float32, ("n", 1))}, {"min_length": "0", "min_silence": "0", "pad": "1000000"}
    ),
}
NAMES = tuple(WANTED)


@st.composite
def wanted(draw: st.DrawFn, name: str) -> bytes:
    """A document that the kernel can take, of any content: floats of all bits, NaN included."""
    kernel = WANTED[name]
    lengths: dict[str | int, int] = {}
    tensors: dict[str, Tensor] = {}
    for tensor, (dtype, form) in kernel.tensors.items():
        if tensor in kernel.contents and draw(st.booleans()):
            original = kernel.contents[tensor]
            tensors[tensor] = np.frombuffer(draw(st.just(original) | mutated(original)), dtype)
            continue
        shape = [
            axis if isinstance(axis, int) else lengths.setdefault(axis, draw(st.integers(1, 5)))
            for axis in form
        ]
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        data = draw(st.binary(min_size=size, max_size=size))
        if draw(st.booleans()):  # a small number everywhere, which passes more checks than any bits
            data = np.full(shape, draw(st.integers(0, 6)), dtype).tobytes()
        tensors[tensor] = np.frombuffer(data, dtype).reshape(shape)
    return encode(
        TensorDocument(tensors, {key: kernel.metadata[key] for key in draw(_some(kernel.metadata))})
    )


def _some(metadata: dict[str, str]) -> st.SearchStrategy[list[str]]:
    return st.just(list(metadata)) | st.sets(st.sampled_from([*metadata, ""])).map(
        lambda keys: sorted(keys & metadata.keys())
    )


def documents(name: str) -> st.SearchStrategy[bytes]:
    return wanted(name) | wanted(name).flatmap(mutated) | lying() | st.binary(max_size=200)


@pytest.fixture(scope="module")
def kernels() -> dict[str, Kernel]:
    sandbox = Sandbox()
    return {name: sandbox.load(tradepost_kernels.load(name)) for name in NAMES}


def outcome(kernel: Kernel, name: str, document: bytes) -> tuple[str, object, int]:
    try:
        run = kernel.run(
            document, fuel=10**9, memory_bytes_max=32 << 20, output_bytes_max=32 << 20, wall_s_max=30.0
        )
    except (KernelError, KernelMemoryExceeded, KernelOutOfFuel) as failure:  # a trap would be a defect
        return failure.code(), failure.detail, 0
    if name != "noop":  # which gives back whatever it gets
        decode(run.output)
    return "returned", run.output, run.fuel_used


def test_every_kernel_is_fuzzed() -> None:
    assert sorted(WANTED) == tradepost_kernels.names()


@pytest.mark.extended
@given(name=st.sampled_from(NAMES), data=st.data())
def test_documents_are_read_or_refused_and_kernels_agree_with_themselves(
    kernels: dict[str, Kernel], name: str, data: st.DataObject
) -> None:
    document = data.draw(documents(name))
    try:
        decode(document)
        event("read: yes")
    except InvalidTensorDocument:
        event("read: refused")
    first = outcome(kernels[name], name, document)
    event(f"outcome: {first[0]}")
    assert [outcome(kernels[name], name, document) for _ in range(2)] == [first, first]
