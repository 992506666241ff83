"""Grown kernels: well-typed modules that compute, loop, call, read and write memory, and ask the host.

A module is written as text from draws: each function is a list of statements, each statement has the
expressions that it needs. Only functions that stand earlier are called, but for one that recurses, to a depth
that its argument bounds. Most addresses and divisors are tamed and most loops count down, so that most
modules run to their end; the rest trap or run out of fuel.

What ran is in the output: each kind of statement sets a bit in a global. The output begins with these bits,
then come a digest of memory, and the values of the variables.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Final, TypeVar

import numpy as np
from hypothesis import strategies as st
from wasmtime import wat2wasm

from tradepost.pipeline.kernel_abi import ALLOWED_IMPORTS, WASI_MODULE
from tradepost.pipeline.tensors import TensorDocument, encode
from wasm_operators import DIVISIONS, LOADS, OPERATORS, STORES, TRUNCATIONS

T = TypeVar("T")

KINDS: Final = tuple(OPERATORS)
#: The kinds of statement, in the order of the bits that tell which ran.
STATEMENTS: Final = (
    *("store", "assign", "host", "bulk", "grow", "table"),
    *("count", "spin", "branch", "switch", "call", "indirect", "recursion"),
)

_RESULT_BYTES: Final = 256
#: The output document before its data: one tensor "x".
_HEADER: Final = encode(TensorDocument({"x": np.zeros(_RESULT_BYTES // 4, np.float32)}))[:-_RESULT_BYTES]
_INPUT_AT, _VECTORS_AT, _OUTPUT_AT = 1024, 2048, 3072
#: Up to the last bytes of four pages, where wide accesses with an offset trap.
_ADDRESS_MASK: Final = 0x3FFF0

#: What host functions get; the others get addresses for all their parameters.
_HOST_ARGUMENTS: Final = {
    "clock_res_get": ("clock", "address"),
    "clock_time_get": ("clock", "wide", "address"),
    "fd_close": ("fd",),
    "fd_fdstat_get": ("fd", "address"),
    "fd_fdstat_set_flags": ("fd", "length"),
    "fd_prestat_get": ("fd", "address"),
    "fd_read": ("fd", "vectors", "count", "address"),
    "fd_seek": ("fd", "wide", "length", "address"),
    "fd_write": ("fd", "vectors", "count", "address"),
    "poll_oneoff": ("address", "address", "count", "address"),
    "random_get": ("address", "length"),
}
_CONSTANTS: Final = {
    "fd": (0, 1, 2, 2, 3),
    "clock": (0, 1, 4),
    "count": (1, 2, 2, 5000),
    "length": (0, 7, 64, 1 << 30),
    "vectors": (_VECTORS_AT,),
}
_HOST_CALLS: Final = tuple(name for name in ALLOWED_IMPORTS if name != "proc_exit")


def statements_that_ran(document: bytes) -> list[str]:
    """The kinds of statement that ran, from the output document of a run that ended."""
    bits = int.from_bytes(document[len(_HEADER) :][:4], "little")
    return [kind for place, kind in enumerate(STATEMENTS) if bits >> place & 1]


@cache
def _below(count: int) -> st.SearchStrategy[int]:
    """Made once for each count: a module takes hundreds of draws, and a strategy costs more than a draw."""
    return st.integers(0, count - 1)


class _Writer:
    """Writes functions. `callees` are the functions before: a name, and the kind that it takes and gives."""

    def __init__(self, draw: st.DrawFn, callees: Sequence[tuple[str, str]]) -> None:
        self._draw = draw
        self._callees = callees
        self._labels = 0

    def statements(self, counts: Sequence[int], depth: int = 2) -> str:
        """One of these numbers of statements, each of which notes that it ran."""
        return " ".join(self._statement(depth) for _ in range(self._pick(counts)))

    def expression(self, kind: str, depth: int) -> str:  # noqa: PLR0911 - one for each shape
        """Text of a value of this kind, made of others to this depth."""
        if depth == 0 or self._one_in(8):
            return self._pick([f"(local.get ${kind})", f"(global.get $g_{kind})", self._constant(kind)])
        callees = [name for name, takes in self._callees if takes == kind]
        shapes = ["operator"] * 5 + ["load", "choose", "tee", "partial"] + ["call"] * bool(callees)
        below = depth - 1
        match self._pick(shapes):
            case "load":
                load, offset = self._pick(LOADS[kind]), self._pick([0, 0, 1, 8])
                return f"({kind}.{load} offset={offset} {self._address(below)})"
            case "choose":
                first, second, condition = (self.expression(one, below) for one in (kind, kind, "i32"))
                if self._one_in(2):
                    return f"(select {first} {second} {condition})"
                return f"(if (result {kind}) {condition} (then {first}) (else {second}))"
            case "tee":
                return f"(local.tee ${kind} {self.expression(kind, below)})"
            case "call":
                return f"(call {self._pick(callees)} {self.expression(kind, below)})"
            case "partial" if kind in TRUNCATIONS:
                return self._partial(kind, below)
        operator, operands = self._pick(OPERATORS[kind])
        return f"({operator} {' '.join(self.expression(one, below) for one in operands)})"

    def _partial(self, kind: str, below: int) -> str:
        """An operator that traps on some values, seldom given one."""
        if self._one_in(4):
            operator, takes = self._pick(TRUNCATIONS[kind])
            return f"({operator} {self.expression(takes, below)})"
        divisor = self.expression(kind, below)
        if not self._one_in(4):
            divisor = f"({kind}.or {divisor} ({kind}.const 1))"
        return f"({kind}.{self._pick(DIVISIONS)} {self.expression(kind, below)} {divisor})"

    def _address(self, depth: int) -> str:
        value = self.expression("i32", depth)
        return value if self._one_in(12) else f"(i32.and {value} (i32.const {_ADDRESS_MASK}))"

    def _constant(self, kind: str) -> str:
        if kind == "v128":
            return f"(v128.const i32x4 {' '.join(str(self._bits(32)) for _ in range(4))})"
        width = int(kind[1:])
        value = f"(i{width}.const {self._bits(width)})"
        return value if kind[0] == "i" else f"({kind}.reinterpret_i{width} {value})"

    def _bits(self, width: int) -> int:
        one, nan, infinity = (
            (0x3F800000, 0x7FC00001, 0x7F800000)
            if width == 32
            else (0x3FF << 52, (0xFFF << 51) + 1, 0x7FF << 52)
        )
        telling = [0, 1, 7, 255, one, nan, infinity, -1, -(1 << (width - 1))]
        return self._draw(st.sampled_from(telling) | st.integers(-(1 << (width - 1)), (1 << (width - 1)) - 1))

    def _statement(self, depth: int) -> str:
        shapes = ["store", "store", "assign", "assign", "host", "bulk", "grow", "table"]
        if depth:
            shapes += ["count", "count", "count", "branch", "switch", "recursion"]
            shapes += ["call", "indirect"] * bool(self._callees)
            shapes += ["spin"] * self._one_in(5)
        shape = self._pick(shapes)
        ran = f"(global.set $ran (i32.or (global.get $ran) (i32.const {1 << STATEMENTS.index(shape)})))"
        return f"{getattr(self, f'_{shape}')(depth)} {ran}"

    def _store(self, _depth: int) -> str:
        kind = self._pick(KINDS)
        return f"({kind}.{self._pick(STORES[kind])} {self._address(1)} {self.expression(kind, 3)})"

    def _assign(self, _depth: int) -> str:
        kind = self._pick(KINDS)
        where = self._pick([f"local.set ${kind}", f"global.set $g_{kind}"])
        return f"({where} {self.expression(kind, 3)})"

    def _host(self, _depth: int) -> str:
        name = self._pick(_HOST_CALLS)
        roles = _HOST_ARGUMENTS.get(name, ("address",) * len(ALLOWED_IMPORTS[name].parameters))
        return f"(local.set $i32 (call ${name} {' '.join(map(self._argument, roles))}))"

    def _argument(self, role: str) -> str:
        if role == "address":
            return self._address(1)
        if role == "wide":
            return self.expression("i64", 1)
        return f"(i32.const {self._pick(_CONSTANTS[role])})"

    def _bulk(self, _depth: int) -> str:
        to, length = self._address(1), f"(i32.const {self._pick([0, 1, 15, 4096])})"
        return self._pick(
            [
                f"(memory.fill {to} {self.expression('i32', 1)} {length})",
                f"(memory.copy {to} {self._address(1)} {length})",
                f"(memory.init $passive {to} (i32.const 2) (i32.const 5))",
            ]
        )

    def _grow(self, _depth: int) -> str:
        pages = f"(i32.and {self.expression('i32', 1)} (i32.const {self._pick([1, 31])}))"
        return f"(local.set $i32 (i32.add (memory.size) (memory.grow {pages})))"

    def _table(self, _depth: int) -> str:
        slot = f"(i32.and {self.expression('i32', 1)} (i32.const 15))"
        return self._pick(
            [
                f"(table.set $table (i32.or {slot} (i32.const 8)) (table.get $table {slot}))",
                "(local.set $i32 (table.grow $table (ref.null func) (i32.const 3)))",
                f"(local.set $i32 (ref.is_null (table.get $table {slot})))",
                "(table.fill $table (i32.const 12) (ref.null func) (i32.const 2))",
                "(table.copy $table $table (i32.const 8) (i32.const 0) (i32.const 4))",
            ]
        )

    def _count(self, depth: int) -> str:
        """A loop that runs so many times."""
        label, counter, times = self._label(), f"$count{depth}", self._pick([1, 2, 3, 10, 40])
        again = f"(br_if {label} (local.tee {counter} (i32.sub (local.get {counter}) (i32.const 1))))"
        body = self.statements((1, 2), depth - 1)
        return f"(local.set {counter} (i32.const {times})) (loop {label} {body} {again})"

    def _spin(self, depth: int) -> str:
        """A loop that ends when a condition says so, which may be never."""
        label = self._label()
        return (
            f"(loop {label} {self.statements((1,), depth - 1)} (br_if {label} {self.expression('i32', 2)}))"
        )

    def _branch(self, depth: int) -> str:
        then, other = (self.statements((1,), depth - 1) for _ in range(2))
        return f"(if {self.expression('i32', 2)} (then {then}) (else {other}))"

    def _switch(self, depth: int) -> str:
        near, far = self._label(), self._label()
        choice = f"(br_table {near} {far} {near} {self.expression('i32', 2)})"
        return f"(block {far} (block {near} {choice}) {self.statements((1,), depth - 1)})"

    def _call(self, _depth: int) -> str:
        name, kind = self._pick(self._callees)
        return f"(local.set ${kind} (call {name} {self.expression(kind, 2)}))"

    def _indirect(self, _depth: int) -> str:
        """A call through the table, mostly of a function of the right type."""
        place, (_, kind) = self._pick(list(enumerate(self._callees)))
        slot = self.expression("i32", 1) if self._one_in(6) else f"(i32.const {place})"
        return f"(local.set ${kind} (call_indirect (type $of_{kind}) {self.expression(kind, 2)} {slot}))"

    def _recursion(self, _depth: int) -> str:
        levels = f"(i32.and {self.expression('i32', 2)} (i32.const {self._pick([3, 15, 63])}))"
        return f"(local.set $i32 (call $recurse {levels}))"

    def _label(self) -> str:
        self._labels += 1
        return f"$label{self._labels}"

    def _pick(self, choices: Sequence[T]) -> T:
        return choices[self._draw(_below(len(choices)))]

    def _one_in(self, count: int) -> bool:
        return self._draw(_below(count)) == count - 1


@st.composite
def grown_kernels(draw: st.DrawFn) -> bytes:
    """A kernel of either form, which validates, with up to three functions beside its entry point."""
    callees: list[tuple[str, str]] = []
    functions = []
    for number, kind in enumerate(draw(st.lists(st.sampled_from(KINDS), max_size=3))):
        writer = _Writer(draw, callees)
        body = f"{writer.statements((1, 2), depth=1)} {writer.expression(kind, 2)}"
        name = f"$function{number}"
        functions.append(f"(func {name} (param ${kind} {kind}) (result {kind}) {_locals(kind)} {body})")
        callees.append((name, kind))
    recursive = _Writer(draw, callees).expression("i32", 2)
    statements = _Writer(draw, callees).statements((3, 4, 5, 6))
    main = f"(func $main (param $i32 i32) {_locals('i32')} {statements} {_KEEP})"
    entry = _COMMAND if draw(st.booleans()) else _REACTOR
    initialize = '(func (export "_initialize") (call $main (i32.const 1)))' if draw(st.booleans()) else ""
    recurse = (
        f"(func $recurse (param $i32 i32) (result i32) {_locals('i32')} (if (result i32) (local.get $i32)"
        f" (then (i32.xor {recursive} (call $recurse (i32.sub (local.get $i32) (i32.const 1)))))"
        " (else (global.get $g_i32))))"
    )
    table = f"(elem (i32.const 0) {' '.join(name for name, _ in callees)})"
    parts = [_TYPES, _IMPORTS, _STATE, _DIGEST, table, *functions, recurse, main, entry, initialize]
    return bytes(wat2wasm(f"(module {' '.join(parts)})"))


def _locals(but: str) -> str:
    counters = " ".join(f"(local $count{depth} i32)" for depth in (1, 2))
    return counters + " ".join(f"(local ${kind} {kind})" for kind in KINDS if kind != but)


def _text(data: bytes) -> str:
    return "".join(f"\\{byte:02x}" for byte in data)


_TYPES: Final = " ".join(f"(type $of_{kind} (func (param {kind}) (result {kind})))" for kind in KINDS)
_IMPORTS: Final = " ".join(
    f'(import "{WASI_MODULE}" "{name}" (func ${name} (param {" ".join(signature.parameters)})'
    f" (result {' '.join(signature.results)})))"
    for name, signature in ALLOWED_IMPORTS.items()
)
_STATE: Final = (
    '(memory (export "memory") 4) (table $table 16 funcref) (global $ran (mut i32) (i32.const 0))'
    + " ".join(
        f"(global $g_{kind} (mut {kind}) ({kind}.const {'i64x2 5 -5' if kind == 'v128' else 3}))"
        for kind in KINDS
    )
    + f'(data (i32.const {_VECTORS_AT}) "{_text(bytes.fromhex("0010000008000000f0ff030000010000"))}")'
    + '(data $passive "passive data") '
    + f'(data $header "{_text(_HEADER)}")'
)
_DATA_AT: Final = _OUTPUT_AT + len(_HEADER)
#: Puts where the output is: the bits of what ran, room for the digest, and 16 bytes for each variable.
_KEEP: Final = f"(i32.store (i32.const {_DATA_AT}) (global.get $ran))" + " ".join(
    f"({kind}.store (i32.const {_DATA_AT + 16 + 32 * place}) (local.get ${kind}))"
    f"({kind}.store (i32.const {_DATA_AT + 32 + 32 * place}) (global.get $g_{kind}))"
    for place, kind in enumerate(KINDS)
)
#: All of the first four pages in one number, so that nothing which was written stays unseen.
_DIGEST: Final = (
    "(func $digest (result i64) (local $at i32) (local $sum i64) (loop $next"
    " (local.set $sum"
    " (i64.add (i64.mul (local.get $sum) (i64.const 0x100000001b3)) (i64.load (local.get $at))))"
    " (br_if $next"
    " (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 8))) (i32.const 0x40000))))"
    " (local.get $sum))"
)
_FINISH: Final = (
    f"(i64.store (i32.const {_DATA_AT + 8}) (call $digest))"
    f"(memory.init $header (i32.const {_OUTPUT_AT}) (i32.const 0) (i32.const {len(_HEADER)}))"
)
_OUTPUT_BYTES: Final = len(_HEADER) + _RESULT_BYTES
_REACTOR: Final = (
    f'(func (export "kernel_alloc") (param i32) (result i32) (i32.const {_INPUT_AT}))'
    '(func (export "kernel_run") (param i32 i32) (result i64) (call $main (i32.load (local.get 0)))'
    f" {_FINISH} (i64.const {_OUTPUT_AT << 32 | _OUTPUT_BYTES}))"
)
_COMMAND: Final = (
    f'(func (export "_start") (call $main (i32.const 0)) {_FINISH}'
    f" (i32.store (i32.const {_VECTORS_AT}) (i32.const {_OUTPUT_AT}))"
    f" (i32.store (i32.const {_VECTORS_AT + 4}) (i32.const {_OUTPUT_BYTES}))"
    f" (drop (call $fd_write (i32.const 1) (i32.const {_VECTORS_AT}) (i32.const 1) (i32.const 64))))"
)
