"""Hostile models: graphs that never end, reach for files, or use operators that they may not."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Final

from tradepost_worker.testing.hostile.cases import (
    INPUT_TOO_COSTLY,
    INVALID_MODEL,
    RETURNED,
    TIMEOUT,
    TOO_COSTLY,
    Case,
    onnx_case,
)
from tradepost_worker.testing.hostile.model_bytes import byte_cases
from tradepost_worker.testing.hostile.model_sizes import size_cases
from tradepost_worker.testing.hostile.protobuf import (
    BOOL,
    FLOAT,
    INT64,
    adding,
    external,
    field,
    function,
    graph,
    graph_attribute,
    int64s,
    int_attribute,
    model,
    node,
    opset,
    tensor,
    tensor_attribute,
    value,
)

FAILED: Final = "model-failure"
CRASHED: Final = "runner-failed"
_TOO_MUCH: Final = (FAILED, INVALID_MODEL, CRASHED, TOO_COSTLY, INPUT_TOO_COSTLY)
_DEADLINE_S: Final = 0.6
_LOAD_S: Final = 2.0
_FOREVER: Final = 1 << 62

_ADD: Final = node("Add", ("x", "x"), ("y",))
_IDENTITY: Final = node("Identity", ("x",), ("y",))


def onnx_cases() -> list[Case]:
    """Every hostile model, with names that are its own."""
    groups = (_control_flow(), size_cases(), _outside(), _domains(), _graphs(), byte_cases())
    return [case for group in groups for case in group]


# If, Loop, Scan


def _loop(*body: bytes) -> bytes:
    """Counts to 2**62 and does `body` (from `v` to `w`) each time; `trips` and `yes` are constants."""
    inner = graph(
        [node("Identity", ("go",), ("go_on",)), *(body or (node("Add", ("v", "v"), ("w",)),))],
        inputs=(value("i", INT64, ()), value("go", BOOL, ()), value("v", shape=None)),
        outputs=(value("go_on", BOOL, ()), value("w", shape=None)),
    )
    return node("Loop", ("trips", "yes", "x"), ("y",), graph_attribute("body", inner))


_LOOP_CONSTANTS: Final = (int64s("trips", _FOREVER, shape=()), tensor("yes", BOOL, (), b"\1"))


def _looping(*body: bytes) -> bytes:
    return model(graph([_loop(*body)], tensors=_LOOP_CONSTANTS))


def _if(then_branch: bytes, name: str = "y") -> bytes:
    otherwise = graph([node("Identity", ("x",), ("z",))], inputs=(), outputs=(value("z", shape=None),))
    return node(
        "If",
        ("yes",),
        (name,),
        graph_attribute("then_branch", then_branch),
        graph_attribute("else_branch", otherwise),
    )


def _control_flow() -> Iterator[Case]:
    branch = partial(graph, inputs=(), outputs=(value("y", shape=None),))
    in_function = model(
        graph([node("F", ("x",), ("y",), domain="local")]),
        extra=field(8, opset("local", 1)) + function("F", [node("Identity", ("a",), ("b",)), _loop()]),
    )
    nested_body = node(
        "Loop",
        ("trips", "yes", "v"),
        ("w",),
        graph_attribute(
            "body",
            graph(
                [node("Identity", ("go2",), ("go3",)), node("Add", ("q", "q"), ("r",))],
                inputs=(value("j", INT64, ()), value("go2", BOOL, ()), value("q", shape=None)),
                outputs=(value("go3", BOOL, ()), value("r", shape=None)),
            ),
        ),
    )
    scan = node(
        "Scan",
        ("x",),
        ("y",),
        graph_attribute(
            "body",
            graph(
                [node("Identity", ("e",), ("f",))],
                inputs=(value("e", FLOAT, ()),),
                outputs=(value("f", FLOAT, ()),),
            ),
        ),
        int_attribute("num_scan_inputs", 1),
    )
    endless = partial(onnx_case, wall_s=_DEADLINE_S)
    yield endless("infinite Loop that its stage names", _looping, TIMEOUT, conditional=("Loop",))
    yield endless(
        "infinite Loop around a Loop", lambda: _looping(nested_body), TIMEOUT, conditional=("Loop",)
    )
    yield endless(
        "infinite Loop that doubles a tensor",
        lambda: _looping(node("Concat", ("v", "v"), ("w",), int_attribute("axis", 0))),
        *_TOO_MUCH,
        TIMEOUT,
        conditional=("Loop",),
    )
    yield onnx_case("Loop that its stage does not name", _looping, INVALID_MODEL)
    yield onnx_case(
        "Scan that its stage does not name",
        lambda: model(graph([scan])),
        INVALID_MODEL,
        conditional=("If", "Loop"),
    )
    yield onnx_case(
        "If that its stage does not name",
        lambda: model(graph([_if(branch([_IDENTITY]))], tensors=_LOOP_CONSTANTS)),
        INVALID_MODEL,
    )
    yield onnx_case("Loop inside a function", lambda: in_function, INVALID_MODEL)
    yield onnx_case(
        "Loop inside an If",
        lambda: model(graph([_if(branch([_loop()]))], tensors=_LOOP_CONSTANTS)),
        INVALID_MODEL,
        conditional=("If",),
    )
    yield onnx_case(
        "Loop by its full domain",
        lambda: model(graph([_loop() + field(7, "ai.onnx")], tensors=_LOOP_CONSTANTS)),
        INVALID_MODEL,
    )
    yield onnx_case(
        "an operator named twice", lambda: model(graph([_loop() + field(4, "Identity")])), INVALID_MODEL
    )
    yield onnx_case("subgraphs 200 deep", lambda: model(_nested_ifs(200)), INVALID_MODEL, conditional=("If",))
    yield onnx_case(
        "subgraphs 15 deep", lambda: model(_nested_ifs(15)), RETURNED, INVALID_MODEL, conditional=("If",)
    )


def _nested_ifs(depth: int) -> bytes:
    inner = graph([_IDENTITY], inputs=(), outputs=(value("y", shape=None),))
    for _ in range(depth):
        inner = graph([_if(inner)], inputs=(), outputs=(value("y", shape=None),))
    return inner + field(5, _LOOP_CONSTANTS[1]) + field(11, value("x"))


# Files


def _outside() -> Iterator[Case]:
    for what, location in {
        "an absolute path": "/etc/passwd",
        "a path with ..": "../../../../../../etc/passwd",
        "a device": "/dev/zero",
        "its process's memory": "/proc/self/mem",
        "the agent's environment": "/proc/self/../self/environ",
        "a socket's name": "socket:[1]",
        "an empty name": "",
    }.items():
        yield onnx_case(f"data in {what}", partial(adding, external(location)), INVALID_MODEL)
    data = external("/etc/passwd")
    constant = node("Constant", (), ("w",), tensor_attribute("value", data))
    branch = graph([_IDENTITY], inputs=(), outputs=(value("y", shape=None),), tensors=(data,))
    yield onnx_case("outside data in an attribute", lambda: model(graph([constant, _ADD])), INVALID_MODEL)
    yield onnx_case(
        "outside data in a list attribute",
        lambda: model(graph([node("Add", ("x", "x"), ("y",), field(1, "v") + field(10, data))])),
        INVALID_MODEL,
    )
    yield onnx_case(
        "outside data in a subgraph",
        lambda: model(graph([_if(branch)], tensors=_LOOP_CONSTANTS)),
        INVALID_MODEL,
        conditional=("If",),
    )
    yield onnx_case(
        "outside data in a function",
        lambda: model(graph([_ADD]), extra=function("F", [constant])),
        INVALID_MODEL,
    )
    yield onnx_case(
        "outside data in a sparse tensor",
        lambda: adding(more=field(15, field(1, data) + field(2, int64s("", 0)) + field(3, 64))),
        INVALID_MODEL,
    )
    yield onnx_case(
        "outside data in training information",
        lambda: model(graph([_ADD]), extra=field(20, field(1, graph([], tensors=(data,))))),
        INVALID_MODEL,
    )
    yield onnx_case(
        "a location without a path",
        lambda: adding(tensor("w", FLOAT, (1,), bytes(4), extra=field(14, 1))),
        INVALID_MODEL,
    )
    yield onnx_case(
        "a location written the long way",
        lambda: adding(tensor("w", FLOAT, (1,), bytes(4), extra=b"\x70\x81\x80\x00")),
        INVALID_MODEL,
    )


# Operators


def _domains() -> Iterator[Case]:
    for domain, operator in (
        ("com.example", "Exfiltrate"),
        ("com.microsoft", "EPContext"),
        ("com.microsoft", "FusedMatMul"),
        ("com.microsoft", "BeamSearch"),
        ("com.microsoft.nchwc", "Conv"),
        ("ai.onnx.contrib", "PyOp"),
        ("ai.onnx.training", "Gradient"),
    ):
        yield onnx_case(
            f"the operator {domain}.{operator}",
            partial(_foreign, domain, operator),
            INVALID_MODEL,
        )
    shadow = function("FusedMatMul", [node("Identity", ("a",), ("b",))], domain="com.microsoft")
    yield onnx_case(
        "a function in the runtime's domain",
        lambda: _foreign("com.microsoft", "FusedMatMul", shadow),
        INVALID_MODEL,
    )
    yield onnx_case(
        "a function in ONNX's domain",
        lambda: model(
            graph([_ADD]), extra=function("Add", [node("Identity", ("a",), ("b",))], domain="ai.onnx")
        ),
        INVALID_MODEL,
    )
    yield onnx_case(
        "an operator that does not exist",
        lambda: model(graph([node("NoSuchThing", ("x",), ("y",))])),
        INVALID_MODEL,
    )
    yield onnx_case(
        "an opset of the far future", lambda: model(graph([_ADD]), opset_version=1 << 40), INVALID_MODEL
    )
    yield onnx_case("no opset", lambda: field(1, 8) + field(7, graph([_ADD])), INVALID_MODEL, RETURNED)
    yield onnx_case(
        "a function of its own",
        lambda: _foreign("local", "F", function("F", [node("Add", ("a", "a"), ("b",))])),
        RETURNED,
    )
    yield onnx_case(
        "a function that calls itself",
        lambda: _foreign("local", "F", function("F", [node("F", ("a",), ("b",), domain="local")])),
        INVALID_MODEL,
        TOO_COSTLY,
        load_s=_LOAD_S,
    )
    yield onnx_case(
        "functions that call each other",
        lambda: _foreign(
            "local",
            "F",
            function("F", [node("G", ("a",), ("b",), domain="local")])
            + function("G", [node("F", ("a",), ("b",), domain="local")]),
        ),
        INVALID_MODEL,
        TOO_COSTLY,
        load_s=_LOAD_S,
    )
    yield onnx_case(
        "functions that double 40 times",
        lambda: _foreign("local", "F0", _doubling_functions(40)),
        INVALID_MODEL,
        TOO_COSTLY,
        load_s=_LOAD_S,
    )


def _foreign(domain: str, operator: str, functions: bytes = b"") -> bytes:
    call = node(operator, ("x",), ("y",), domain=domain)
    return model(graph([call]), extra=field(8, opset(domain, 1)) + functions)


def _doubling_functions(depth: int) -> bytes:
    calls = b""
    for level in range(depth):
        inner = f"F{level + 1}"
        twice = [node(inner, ("a",), ("m",), domain="local"), node(inner, ("m",), ("b",), domain="local")]
        calls += function(f"F{level}", twice)
    return calls + function(f"F{depth}", [node("Add", ("a", "a"), ("b",))])


# Graphs that are none


def _graphs() -> Iterator[Case]:
    yield onnx_case(
        "a cycle of two",
        lambda: model(
            graph(
                [
                    node("Add", ("x", "b"), ("a",)),
                    node("Add", ("a", "x"), ("b",)),
                    node("Identity", ("b",), ("y",)),
                ]
            )
        ),
        INVALID_MODEL,
    )
    yield onnx_case(
        "a node that feeds itself", lambda: model(graph([node("Add", ("x", "y"), ("y",))])), INVALID_MODEL
    )
    yield onnx_case("one output by two nodes", lambda: model(graph([_ADD, _IDENTITY])), INVALID_MODEL)
    yield onnx_case(
        "an input from nowhere", lambda: model(graph([node("Add", ("x", "nowhere"), ("y",))])), INVALID_MODEL
    )
    yield onnx_case("no graph", lambda: field(1, 8) + field(8, opset("", 17)), INVALID_MODEL)
    yield onnx_case("two graphs", lambda: model(graph([_ADD])) + field(7, graph([_ADD])), INVALID_MODEL)
    yield onnx_case("an empty graph", lambda: model(graph([])), INVALID_MODEL, FAILED)
    yield onnx_case(
        "other outputs than its stage names",
        lambda: model(graph([node("Add", ("x", "x"), ("q",))], outputs=(value("q"),))),
        FAILED,
    )
    chain = [node("Identity", (f"v{n}",), (f"v{n + 1}",)) for n in range(50_000)]
    yield onnx_case(
        "a chain of 50,000 nodes",
        lambda: model(
            graph([node("Identity", ("x",), ("v0",)), *chain, node("Identity", ("v50000",), ("y",))])
        ),
        RETURNED,
        *_TOO_MUCH,
        TIMEOUT,
        load_s=_LOAD_S,
    )
