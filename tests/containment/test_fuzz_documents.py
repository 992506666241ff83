"""Hostile tensor documents: our reader and the built-in kernels read or refuse them, each time alike.

Some documents are what a kernel asks for, some are such ones with damage, and some say in well-formed JSON
what cannot be: sizes that lie, overflow or do not match, and lengths that reach beyond the end.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

import tradepost_kernels
from mutations import mutated
from tradepost.errors import InvalidTensorDocument, KernelError, KernelMemoryExceeded, KernelOutOfFuel
from tradepost.pipeline.tensors import Tensor, TensorDocument, decode, encode
from tradepost_worker.runner.kernel_sandbox import Kernel, Sandbox

NAMES = ("normalize", "topk", "bytes_window", "checksum", "noop")

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
    st.sampled_from(["size", "scale", "mean", "std", "k", "labels", "head", "tail", "activation", "x"]),
    st.one_of(
        st.text(max_size=12), st.sampled_from(["1e999", "-0", "0", "99999999999999999999", "1,2", "softmax"])
    ),
    max_size=4,
)
NAMED = st.dictionaries(st.sampled_from(["image", "scores", "bytes", "x", "é", ""]), TENSORS, max_size=3)


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


#: For each kernel, what it takes: the tensor's name, its dtype and rank, and metadata.
WANTED = {
    "normalize": ("image", np.uint8, 3, {"size": "4,4", "mean": "0.5", "std": "0.5", "scale": "255"}),
    "topk": ("scores", np.float32, 2, {"k": "2", "activation": "softmax"}),
    "bytes_window": ("bytes", np.uint8, 1, {"head": "4", "tail": "4"}),
    "checksum": ("x", np.float64, 2, {}),
    "noop": ("x", np.int32, 2, {}),
}


@st.composite
def wanted(draw: st.DrawFn, name: str) -> bytes:
    """A document that the kernel can take, of any content: floats of all bits, NaN included."""
    tensor, dtype, rank, metadata = WANTED[name]
    shape = draw(st.lists(st.integers(1, 5), min_size=rank, max_size=rank))
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    data: Tensor = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), dtype).reshape(shape)
    return encode(TensorDocument({tensor: data}, {key: metadata[key] for key in draw(_some(metadata))}))


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
