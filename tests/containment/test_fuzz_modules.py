"""Generated kernels: whatever the module, the sandbox lives, and three runs agree in output and fuel.

Two generators: well-typed modules grown from expressions, loops and memory accesses, and well-formed modules
with bytes damaged, most of which the checks must refuse.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wasmtime import wat2wasm

import tradepost_kernels
from tradepost.errors import InvalidKernel, StageFailure
from tradepost_worker.sandbox import Sandbox
from tradepost_worker.testing.hostile.module_builders import reactor

EXAMPLES = settings.get_profile(settings.get_current_profile_name()).max_examples * 3 // 2
FUZZ = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])

UNARY = {
    "i32": ("i32.clz", "i32.ctz", "i32.popcnt", "i32.eqz", "i32.extend8_s"),
    "i64": ("i64.clz", "i64.popcnt", "i64.extend32_s"),
    "f32": ("f32.abs", "f32.neg", "f32.sqrt", "f32.ceil", "f32.floor", "f32.trunc", "f32.nearest"),
    "f64": ("f64.abs", "f64.neg", "f64.sqrt", "f64.ceil", "f64.nearest"),
}
BINARY = {
    "i32": (
        "add",
        "sub",
        "mul",
        "div_s",
        "div_u",
        "rem_s",
        "rem_u",
        "and",
        "or",
        "xor",
        "shl",
        "shr_s",
        "rotl",
    ),
    "i64": ("add", "sub", "mul", "div_s", "div_u", "rem_s", "and", "xor", "shl", "shr_u", "rotr"),
    "f32": ("add", "sub", "mul", "div", "min", "max", "copysign"),
    "f64": ("add", "sub", "mul", "div", "min", "max", "copysign"),
}
CONVERT = {
    "i32": (
        ("i64", "i32.wrap_i64"),
        ("f32", "i32.trunc_sat_f32_s"),
        ("f64", "i32.trunc_f64_u"),
        ("f32", "i32.reinterpret_f32"),
    ),
    "i64": (("i32", "i64.extend_i32_s"), ("f64", "i64.trunc_sat_f64_s"), ("f64", "i64.reinterpret_f64")),
    "f32": (("i32", "f32.convert_i32_s"), ("f64", "f32.demote_f64"), ("i32", "f32.reinterpret_i32")),
    "f64": (("i64", "f64.convert_i64_u"), ("f32", "f64.promote_f32"), ("i64", "f64.reinterpret_i64")),
}
KINDS = tuple(UNARY)
ADDRESS_MASK = 0x3FFFF  # four pages, so that some accesses at the end of memory trap


@st.composite
def expressions(draw: st.DrawFn, kind: str, depth: int) -> str:  # noqa: PLR0911 - one for each shape
    """Text of a well-typed expression of this kind."""
    shapes = ["constant", "local"]
    if depth:
        shapes += ["unary", "binary", "convert", "load", "select", "if", "tee", "call"]
    shape = draw(st.sampled_from(shapes))
    sub = depth - 1
    if shape == "constant":
        bits = draw(st.integers(-(1 << 31), (1 << 31) - 1))
        return (
            f"({kind}.reinterpret_i{kind[1:]} (i{kind[1:]}.const {bits}))"
            if kind[0] == "f"
            else f"({kind}.const {bits})"
        )
    if shape == "local":
        return f"(local.get ${kind})"
    if shape == "unary":
        return f"({draw(st.sampled_from(UNARY[kind]))} {draw(expressions(kind, sub))})"
    if shape == "binary":
        operator = draw(st.sampled_from(BINARY[kind]))
        return f"({kind}.{operator} {draw(expressions(kind, sub))} {draw(expressions(kind, sub))})"
    if shape == "convert":
        source, operator = draw(st.sampled_from(CONVERT[kind]))
        return f"({operator} {draw(expressions(source, sub))})"
    if shape == "load":
        return f"({kind}.load (i32.and {draw(expressions('i32', sub))} (i32.const {ADDRESS_MASK})))"
    if shape == "tee":
        return f"(local.tee ${kind} {draw(expressions(kind, sub))})"
    if shape == "call":
        return f"(call ${kind}_function {draw(expressions(kind, sub))})"
    first, second = draw(expressions(kind, sub)), draw(expressions(kind, sub))
    condition = draw(expressions("i32", sub))
    if shape == "if":
        return f"(if (result {kind}) {condition} (then {first}) (else {second}))"
    return f"(select {first} {second} {condition})"


@st.composite
def statements(draw: st.DrawFn) -> str:
    """Text of a statement: a store, an assignment, a loop, a bulk memory instruction."""
    kind = draw(st.sampled_from(KINDS))
    value = draw(expressions(kind, 3))
    address = f"(i32.and {draw(expressions('i32', 2))} (i32.const {ADDRESS_MASK}))"
    shape = draw(st.sampled_from(["store", "set", "loop", "fill", "copy", "grow"]))
    if shape == "store":
        return f"({kind}.store {address} {value})"
    if shape == "set":
        return f"(local.set ${kind} {value})"
    if shape == "loop":
        return f"(loop $l ({kind}.store {address} {value}) (br_if $l {draw(expressions('i32', 2))}))"
    if shape == "grow":
        return f"(drop (memory.grow (i32.and {draw(expressions('i32', 2))} (i32.const 31))))"
    length = draw(st.integers(0, 1 << 17))
    if shape == "fill":
        return f"(memory.fill {address} (i32.const {length & 255}) (i32.const {length}))"
    return f"(memory.copy {address} (i32.const {length & 0xFFFF}) (i32.const {length}))"


@st.composite
def grown_modules(draw: st.DrawFn) -> bytes:
    """A well-typed reactor that answers with the first 64 bytes of its memory after some statements."""
    body = " ".join(draw(st.lists(statements(), min_size=1, max_size=5)))
    functions = " ".join(
        f"(func ${kind}_function (param ${kind} {kind}) (result {kind}) {_locals(kind)} {draw(_leaf(kind))})"
        for kind in KINDS
    )
    values = " ".join(
        f"({kind}.store (i32.const {8 * place}) (local.get ${kind}))" for place, kind in enumerate(KINDS)
    )
    return reactor(f"{_locals('')} {body} {values} (i64.const 64)", more=functions)


def _locals(but: str) -> str:
    return " ".join(f"(local ${kind} {kind})" for kind in KINDS if kind != but)


def _leaf(kind: str) -> st.SearchStrategy[str]:
    return expressions(kind, 2).filter(lambda text: "call" not in text)


def outcome(sandbox: Sandbox, wasm: bytes) -> tuple[object, ...]:
    """What a run on a fixed input comes to, in terms that must not vary."""
    try:
        run = sandbox.load(wasm).run(
            b"\x08\0\0\0\0\0\0\0{}      ",
            fuel=300_000,
            memory_bytes_max=2 << 20,
            output_bytes_max=1 << 20,
            wall_s_max=20.0,
        )
    except StageFailure as failure:
        return failure.code(), failure.detail, failure.facts
    return run.output, run.fuel_used, run.stderr


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    return Sandbox()


@FUZZ
@given(wasm=grown_modules())
def test_grown_modules_agree_with_themselves(sandbox: Sandbox, wasm: bytes) -> None:
    first = outcome(sandbox, wasm)
    assert first[0] != InvalidKernel.code(), first
    assert [outcome(sandbox, wasm) for _ in range(2)] == [first, first]


SEEDS = [
    reactor(
        more="(table 2 funcref) (elem (i32.const 0) $run) "
        '(global (mut i64) (i64.const 7)) (data (i32.const 9) "abc")'
    ),
    bytes(wat2wasm('(module (memory (export "memory") 1) (func (export "_start")))')),
    *(tradepost_kernels.load(name) for name in ("noop", "checksum")),
]


@FUZZ
@given(
    seed=st.sampled_from(SEEDS),
    edits=st.lists(
        st.tuples(
            st.sampled_from(["set", "insert", "delete", "repeat"]),
            st.floats(0, 1),
            st.binary(min_size=1, max_size=6),
        ),
        min_size=1,
        max_size=4,
    ),
)
def test_damaged_modules_are_refused_or_agree_with_themselves(
    sandbox: Sandbox, seed: bytes, edits: list[tuple[str, float, bytes]]
) -> None:
    data = bytearray(seed)
    for how, where, content in edits:
        at = 8 + int(where * (len(data) - 9))
        if how == "set":
            data[at : at + len(content)] = content
        elif how == "insert":
            data[at:at] = content
        elif how == "delete":
            del data[at : at + len(content)]
        else:
            data[at:at] = data[at : at + 64]
    first = outcome(sandbox, bytes(data))
    assert [outcome(sandbox, bytes(data)) for _ in range(2)] == [first, first]
