"""Hostile tensor documents against the built-in kernels: an output or a refusal, and the same each time."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tradepost_kernels
from tradepost.errors import KernelError, KernelMemoryExceeded, KernelOutOfFuel
from tradepost.tensors import decode
from tradepost_worker.sandbox import Kernel, Sandbox

EXAMPLES = settings.get_profile(settings.get_current_profile_name()).max_examples * 3 // 2
FUZZ = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
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
def documents(draw: st.DrawFn) -> bytes:
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


@pytest.fixture(scope="module")
def kernels() -> dict[str, Kernel]:
    sandbox = Sandbox()
    return {name: sandbox.load(tradepost_kernels.load(name)) for name in NAMES}


def outcome(kernel: Kernel, name: str, document: bytes) -> tuple[object, ...]:
    try:
        run = kernel.run(
            document, fuel=10**9, memory_bytes_max=32 << 20, output_bytes_max=32 << 20, wall_s_max=30.0
        )
    except (KernelError, KernelMemoryExceeded, KernelOutOfFuel) as failure:  # a trap would be a defect
        return failure.code(), failure.detail
    if name != "noop":  # which gives back whatever it gets
        decode(run.output)
    return run.output, run.fuel_used


@FUZZ
@given(name=st.sampled_from(NAMES), document=st.one_of(documents(), st.binary(max_size=200)))
def test_built_in_kernels_survive_any_document(
    kernels: dict[str, Kernel], name: str, document: bytes
) -> None:
    first = outcome(kernels[name], name, document)
    assert [outcome(kernels[name], name, document) for _ in range(2)] == [first, first]
