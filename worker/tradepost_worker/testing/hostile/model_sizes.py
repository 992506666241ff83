"""Hostile models that claim, or make, more than there is room for."""

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
from tradepost_worker.testing.hostile.protobuf import (
    FLOAT,
    INT32,
    INT64,
    STRING,
    adding,
    field,
    graph,
    int64s,
    int_attribute,
    model,
    node,
    tensor,
    value,
    varint,
)

FAILED: Final = "model-failure"
CRASHED: Final = "runner-failed"
_TOO_MUCH: Final = (FAILED, INVALID_MODEL, CRASHED, TOO_COSTLY, INPUT_TOO_COSTLY)
_LOAD_S: Final = 2.0

_ADD: Final = node("Add", ("x", "x"), ("y",))


def size_cases() -> Iterator[Case]:
    """Sizes that are declared, and sizes that are computed."""
    yield from _declared()
    yield from _computed()


# Sizes that are declared


def _declared() -> Iterator[Case]:
    tera = 1 << 40
    yield onnx_case(
        "a 4 TiB tensor in 80 bytes",
        lambda: adding(tensor("w", FLOAT, (tera,), b"\0\0\x80\x3f")),
        INVALID_MODEL,
    )
    yield onnx_case(
        "4 TiB without any data", lambda: adding(tensor("w", FLOAT, (1 << 20, 1 << 20))), INVALID_MODEL
    )
    yield onnx_case(
        "sizes whose product overflows to 0",
        lambda: adding(tensor("w", FLOAT, (1 << 32, 1 << 32))),
        INVALID_MODEL,
    )
    yield onnx_case(
        "sizes whose product overflows to 1",
        lambda: adding(tensor("w", FLOAT, ((1 << 32) - 1, (1 << 32) + 1) * 2, bytes(4))),
        INVALID_MODEL,
    )
    yield onnx_case("a negative size", lambda: adding(tensor("w", FLOAT, (-4,), bytes(16))), INVALID_MODEL)
    yield onnx_case(
        "10,000 dimensions", lambda: adding(tensor("w", FLOAT, (1,) * 10_000, bytes(4))), INVALID_MODEL
    )
    yield onnx_case(
        "packed sizes",
        lambda: adding(field(1, varint(tera) + varint(1)) + field(2, FLOAT) + field(8, "w")),
        INVALID_MODEL,
    )
    yield onnx_case(
        "a size of another wire type",
        lambda: adding(b"\x0d\0\0\0\0" + tensor("w", FLOAT, (tera,))),
        INVALID_MODEL,
    )
    halves = field(5, tensor("", FLOAT, (1 << 16,), bytes(1 << 18))) * 2
    yield onnx_case(
        "a tensor in two parts, to be merged",
        lambda: model(graph([node("Constant", (), ("w",), field(1, "value") + halves + field(20, 4)), _ADD])),
        INVALID_MODEL,
    )
    yield onnx_case(
        "10 million elements in a string tensor",
        lambda: adding(tensor("w", STRING, (10_000_000,))),
        INVALID_MODEL,
    )
    sparse = field(1, tensor("w", FLOAT, (1,), bytes(4))) + field(2, int64s("", 0)) + field(3, tera)
    yield onnx_case("a sparse tensor of 4 TiB", lambda: adding(more=field(15, sparse)), INVALID_MODEL)
    bad_index = field(1, tensor("w", FLOAT, (1,), bytes(4))) + field(2, int64s("", 1 << 50)) + field(3, 3)
    yield onnx_case(
        "a sparse tensor with an index outside", lambda: adding(more=field(15, bad_index)), INVALID_MODEL
    )
    yield onnx_case(
        "an input declared as 4 TiB",
        lambda: model(graph([_ADD], inputs=(value("x", FLOAT, (tera,)),))),
        INVALID_MODEL,
    )
    yield onnx_case(
        "a result declared as 4 TiB",
        lambda: model(graph([_ADD], extra=field(13, value("z", FLOAT, (1 << 20, 1 << 20))))),
        INVALID_MODEL,
    )
    yield onnx_case(
        "fewer bytes than declared", lambda: adding(tensor("w", FLOAT, (4,), bytes(9))), INVALID_MODEL, FAILED
    )
    yield onnx_case(
        "an element type that does not exist", lambda: adding(tensor("w", 99, (1,), bytes(4))), INVALID_MODEL
    )


# Sizes that are computed


def _computed() -> Iterator[Case]:
    """Graphs that make much out of little, when they are loaded (constants are folded) or when they run."""
    too_much = partial(onnx_case, wall_s=3.0, load_s=_LOAD_S)
    verdicts = (*_TOO_MUCH, TIMEOUT)
    cast = node("Cast", ("x",), ("n",), int_attribute("to", INT64))
    big = node("Mul", ("n", "million"), ("size",))
    million = int64s("million", 1 << 30)
    for operator, nodes, tensors in (
        ("ConstantOfShape", [node("ConstantOfShape", ("s",), ("y",))], (int64s("s", 1 << 40),)),
        ("Expand", [node("Expand", ("x", "s"), ("y",))], (int64s("s", 1 << 30, 3),)),
        ("Tile", [node("Tile", ("x", "s"), ("y",))], (int64s("s", 1 << 40),)),
        (
            "Range",
            [
                node("Range", ("a", "s", "b"), ("r",)),
                node("Cast", ("r",), ("y",), int_attribute("to", FLOAT)),
            ],
            (int64s("a", 0, shape=()), int64s("s", 1 << 40, shape=()), int64s("b", 1, shape=())),
        ),
        ("Pad", [node("Pad", ("x", "s"), ("y",))], (int64s("s", 1 << 40, 1 << 40),)),
        ("Pad by less than nothing", [node("Pad", ("x", "s"), ("y",))], (int64s("s", -(1 << 62), 1 << 62),)),
        ("Resize", [node("Resize", ("x", "", "", "s"), ("y",))], (int64s("s", 1 << 40),)),
        (
            "OneHot",
            [node("OneHot", ("n", "s", "v"), ("y",))],
            (int64s("n", 0), int64s("s", 1 << 40), tensor("v", FLOAT, (2,), bytes(8))),
        ),
        (
            "EyeLike",
            [node("ConstantOfShape", ("s",), ("e",)), node("EyeLike", ("e",), ("y",))],
            (int64s("s", 1 << 20, 1 << 20),),
        ),
        ("ConstantOfShape of an input", [cast, big, node("ConstantOfShape", ("size",), ("y",))], (million,)),
        ("Expand of an input", [cast, big, node("Expand", ("x", "size"), ("y",))], (million,)),
        (
            "Einsum",
            [
                node(
                    "Einsum",
                    ("x",) * 6,
                    ("y",),
                    field(1, "equation") + field(4, "a,b,c,d,e,f->abcdef") + field(20, 3),
                )
            ],
            (),
        ),
    ):
        expected = (*verdicts, RETURNED) if operator in ("Einsum", "Pad by less than nothing") else verdicts
        yield too_much(f"{operator} bomb", partial(_bomb, nodes, tensors), *expected)
    doubling = [node("Concat", (f"v{n}",) * 2, (f"v{n + 1}",), int_attribute("axis", 0)) for n in range(40)]
    yield too_much(
        "40 doublings",
        lambda: model(
            graph([node("Identity", ("x",), ("v0",)), *doubling, node("Identity", ("v40",), ("y",))])
        ),
        *verdicts,
    )
    yield too_much(
        "40 doublings of a constant",
        lambda: _bomb(
            [*doubling, node("Identity", ("v40",), ("y",))], (tensor("v0", FLOAT, (1,), bytes(4)),)
        ),
        *verdicts,
    )
    outer = [node("Reshape", (f"m{n}", "column"), (f"c{n}",)) for n in range(4)] + [
        node("Mul", (f"c{n}", f"m{n}"), (f"m{n + 1}",)) for n in range(4)
    ]
    yield too_much(
        "a chain of outer products",
        lambda: model(
            graph(
                [
                    node("Tile", ("x", "s"), ("m0",)),
                    *(step for pair in zip(outer[:4], outer[4:], strict=True) for step in pair),
                    node("Identity", ("m4",), ("y",)),
                ],
                tensors=(int64s("s", 1 << 12), int64s("column", -1, 1)),
            )
        ),
        *verdicts,
    )
    yield too_much(
        "an output over the pipeline's limit",
        lambda: _bomb([node("Tile", ("x", "s"), ("y",))], (int64s("s", 1 << 20),)),
        "stage-failure",
    )
    yield too_much(
        "an endless multiplication of matrices",
        lambda: model(
            graph(
                [
                    node("ConstantOfShape", ("s",), ("z",)),
                    node("ReduceSum", ("x",), ("sum",)),
                    node("Add", ("z", "sum"), ("m0",)),
                    *(node("MatMul", (f"m{n}", f"m{n}"), (f"m{n + 1}",)) for n in range(400)),
                    node("ReduceSum", ("m400",), ("t",)),
                    node("Add", ("x", "t"), ("y",)),
                ],
                tensors=(int64s("s", 1500, 1500),),
            )
        ),
        TIMEOUT,
    )
    yield onnx_case(
        "integer division by zero",
        lambda: model(
            graph(
                [
                    node("Cast", ("x",), ("n",), int_attribute("to", INT32)),
                    node("Sub", ("n", "n"), ("zero",)),
                    node("Div", ("n", "zero"), ("q",)),
                    node("Cast", ("q",), ("y",), int_attribute("to", FLOAT)),
                ]
            )
        ),
        RETURNED,
        *_TOO_MUCH,
    )
    yield onnx_case(
        "an index far outside",
        lambda: _bomb([node("Gather", ("x", "s"), ("y",))], (int64s("s", 1 << 40),)),
        *_TOO_MUCH,
    )
    yield onnx_case(
        "a scatter far outside",
        lambda: _bomb(
            [node("ScatterElements", ("x", "s", "w"), ("y",))],
            (int64s("s", -(1 << 40)), tensor("w", FLOAT, (1,), bytes(4))),
        ),
        *_TOO_MUCH,
    )
    yield onnx_case(
        "a shape that does not fit",
        lambda: _bomb([node("Reshape", ("x", "s"), ("y",))], (int64s("s", 7, -1, 5),)),
        *_TOO_MUCH,
    )
    yield onnx_case(
        "text as its output",
        lambda: model(
            graph([node("Cast", ("x",), ("y",), int_attribute("to", STRING))], outputs=(value("y", STRING),))
        ),
        FAILED,
    )
    yield onnx_case(
        "a sequence as its output",
        lambda: model(graph([node("SequenceConstruct", ("x",), ("y",))], outputs=(_sequence("y"),))),
        FAILED,
    )


def _bomb(nodes: list[bytes], tensors: tuple[bytes, ...]) -> bytes:
    return model(graph(nodes, tensors=tensors))


def _sequence(name: str) -> bytes:
    return field(1, name) + field(2, field(4, field(1, field(1, field(1, FLOAT)))))
