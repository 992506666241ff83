"""What may be in a model: a bounded walk over its protobuf before onnxruntime parses it.

Publishers' tools and workers run the same check, without an engine. Refused are:

- **data in other files.** ONNX lets a tensor name a file that holds its data (`external_data`), by a path
  that the model chooses. A model from the market is one artifact with one CID, so any such tensor is refused,
  wherever it hides: in the graph, in attributes, in subgraphs, in functions, in sparse tensors.
- **operators of other domains** than ONNX's own, unless the model itself defines them as functions. Others
  are a runtime's extensions (some of which read files) or a custom library's.
- **If, Loop and Scan**, whose work depends on the input, unless the pipeline's manifest names them.
- **operators that draw random numbers**: their result differs from run to run, a given seed or not, since an
  engine goes on in its sequence, so that honest results would contradict each other.
- **sizes that are only claimed**: a tensor must carry the data that its shape declares, and no sparse tensor
  or intermediate result may be declared larger than the stage's memory.

The walk follows only the fields in `_WALK` and steps over everything else by its length; what it keeps
grows with the bytes that are there, never with what they claim. Values of an attribute that follow each
other count as one field, however many there are: a tree ensemble writes each value of its nodes with a tag.
A field that may occur once must: protobuf would merge two, each harmless, into one that is not.
Field numbers: github.com/onnx/onnx, `onnx/onnx.proto`; wire format: protobuf.dev, "Encoding".
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Final, get_args

from tradepost.errors import InvalidModel
from tradepost.pipeline.manifest import ConditionalOperator

DEPTH_MAX: Final = 64
FIELDS_MAX: Final = 2_000_000
#: Of a sparse tensor or an intermediate result, where no stage says how much memory there is.
ELEMENTS_MAX: Final = 1 << 40
RANK_MAX: Final = 64

#: The domains of ONNX's own operators. "" is short for "ai.onnx".
DOMAINS: Final = frozenset({b"", b"ai.onnx", b"ai.onnx.ml"})

#: Domains in which a model may define no functions: onnxruntime may have operators of its own there.
_RESERVED_DOMAINS: Final = (b"ai.onnx", b"com.microsoft", b"com.ms.", b"org.pytorch.")

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_VARINT_BYTES_MAX: Final = 10

_SHORT_STRING_BYTES_MAX: Final = 63
_SHORT_STRING: Final = b"|".join(
    b"\\x%02x.{%d}" % (size, size) for size in range(_SHORT_STRING_BYTES_MAX + 1)
)
#: Values of an attribute in a row: `floats` (field 7, 32 bits each), `ints` (field 8, varints) or short
#: `strings` (field 9). The quantifiers are possessive, so that a long row costs no memory.
_VALUES: Final = re.compile(
    rb"(?:\x3d.{4})++|(?:\x40[\x80-\xff]{0,9}[\x00-\x7f])++|(?:\x4a(?:" + _SHORT_STRING + rb"))++", re.DOTALL
)

#: Message -> field number -> message inside it.
_WALK: Final[dict[str, dict[int, str]]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute", 12: "value"},
    "graph": {1: "node", 5: "tensor", 11: "value", 12: "value", 13: "value", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
    "value": {2: "type"},
    "type": {1: "tensor type", 8: "tensor type"},
    "tensor type": {2: "shape"},
}
#: Message -> fields that may occur once.
_ONCE: Final[dict[str, frozenset[int]]] = {
    "model": frozenset({7}),
    "training": frozenset({1, 2}),
    "function": frozenset({1, 10}),
    "node": frozenset({4, 7}),
    "attribute": frozenset({5, 6, 22}),
    "sparse": frozenset({1, 2}),
    "value": frozenset({2}),
    "type": frozenset({1, 8}),
    "tensor type": frozenset({2}),
}
#: Message -> fields whose content the walk keeps until the message ends -> their wire types.
_KEPT: Final[dict[str, dict[int, tuple[int, ...]]]] = {
    "node": {4: (_BYTES,), 7: (_BYTES,)},  # op_type, domain
    "function": {1: (_BYTES,), 10: (_BYTES,)},  # name, domain
    "tensor": {1: (_VARINT, _BYTES)},  # dims, each by itself or packed
    "sparse": {3: (_VARINT, _BYTES)},
}
_RANDOM: Final = frozenset({b"Bernoulli", b"Multinomial"}) | frozenset(
    f"Random{law}{like}".encode() for law in ("Normal", "Uniform") for like in ("", "Like")
)
_CONDITIONAL: Final = {name.encode(): name for name in get_args(ConditionalOperator)}
_TENSOR_EXTERNAL_DATA: Final = 13
_TENSOR_DATA_LOCATION: Final = 14
_OPERATOR, _OPERATOR_DOMAIN = 4, 7
_FUNCTION, _FUNCTION_DOMAIN = 1, 10
_DIMS: Final = {"tensor": 1, "sparse": 3}
_DIMENSION, _SIZE = 1, 1
#: The smallest elements have 2 bits.
_ELEMENTS_PER_BYTE_MAX: Final = 4
_NAME_BYTES_MAX: Final = 512

_Operator = tuple[bytes, bytes]  # domain, name


def check_model(
    model: bytes | memoryview,
    *,
    conditional_operators: Collection[ConditionalOperator] = (),
    elements_max: int = ELEMENTS_MAX,
) -> None:
    """Raise `InvalidModel`, naming what offends, unless `model` is within the profile.

    Of If, Loop and Scan it may hold only the `conditional_operators`. No sparse tensor or intermediate result
    may be declared with more than `elements_max` elements, of which each takes a byte at least.
    """
    _Walk(model, conditional_operators, elements_max).run()


@dataclass
class _Message:
    """A message that is still to be walked."""

    kind: str
    start: int
    end: int
    depth: int
    kept: dict[int, list[bytes]] = field(default_factory=dict)


@dataclass
class _Walk:
    model: bytes | memoryview
    conditional_operators: Collection[ConditionalOperator]
    elements_max: int
    _fields: int = 0
    _foreign: set[_Operator] = field(default_factory=set)
    _functions: set[_Operator] = field(default_factory=set)
    _open: list[_Message] = field(default_factory=list)

    def run(self) -> None:
        self._open = [_Message("model", 0, len(self.model), 0)]
        while self._open:
            message = self._open.pop()
            if message.depth > DEPTH_MAX:
                raise InvalidModel(f"its messages are nested more than {DEPTH_MAX} levels deep")
            if message.kind == "shape":
                self._check_shape(message)
            else:
                self._read(message)
            self._check(message)
        if foreign := self._foreign - self._functions:
            domain, name = min(foreign)
            raise InvalidModel(
                f"it uses the operator {_shown(name)} of the domain {_shown(domain)}",
                hint="Export it with the standard ONNX operators (ai.onnx and ai.onnx.ml).",
            )

    def _read(self, message: _Message) -> None:
        """Walk a message's fields; put the messages inside it on the list."""
        inside, once = _WALK[message.kind], _ONCE.get(message.kind, frozenset())
        kept, seen = _KEPT.get(message.kind, {}), set()
        for number, wire_type, start, end in self._fields_of(message):
            if number in once:
                if number in seen:
                    raise InvalidModel(f"field {number} of a {message.kind} occurs twice")
                seen.add(number)
            expected = (_BYTES,) if number in inside else kept.get(number, (wire_type,))
            if wire_type not in expected:
                raise InvalidModel(f"field {number} of a {message.kind} has wire type {wire_type}")
            if number in inside:
                self._open.append(_Message(inside[number], start, end, message.depth + 1))
            elif number in kept:
                message.kept.setdefault(number, []).append(bytes(self.model[start:end]))
            elif message.kind == "tensor":
                _check_tensor_field(self.model, number, start, end)

    def _fields_of(self, message: _Message) -> Iterator[tuple[int, int, int, int]]:
        """Each field's number and wire type, and where its content starts and ends."""
        position = message.start
        while position < message.end:
            self._fields += 1
            if self._fields > FIELDS_MAX:
                raise InvalidModel(f"it has more than {FIELDS_MAX:,} fields")
            if message.kind == "attribute" and (row := _VALUES.match(self.model, position, message.end)):
                position = row.end()
                continue
            tag, position = _varint(self.model, position, message.end)
            start, position = _step_over(self.model, position, message.end, tag & 7)
            yield tag >> 3, tag & 7, start, position

    def _check(self, message: _Message) -> None:
        """Check what a message's own fields say together."""
        if message.kind == "node":
            self._check_operator(_name(message, _OPERATOR_DOMAIN), _name(message, _OPERATOR))
        elif message.kind == "function":
            self._check_function(_name(message, _FUNCTION_DOMAIN), _name(message, _FUNCTION))
        elif message.kind == "tensor":
            claimed, size_bytes = _elements(message), message.end - message.start
            if claimed > _ELEMENTS_PER_BYTE_MAX * size_bytes:
                raise InvalidModel(
                    f"a tensor declares {claimed:,} elements but contains {size_bytes:,} bytes"
                )
        elif message.kind == "sparse":
            self._check_size("a sparse tensor", _elements(message))

    def _check_operator(self, domain: bytes, name: bytes) -> None:
        conditional = _CONDITIONAL.get(name)
        if conditional is not None and conditional not in self.conditional_operators:
            raise InvalidModel(
                f"it uses the operator {conditional}, which its stage does not allow",
                hint=f'Add it to the stage: conditional_operators = ["{conditional}"].',
            )
        if domain not in DOMAINS:
            self._foreign.add((domain, name))
        elif name in _RANDOM:
            raise InvalidModel(
                f"it uses the operator {name.decode()}, which gives other numbers in each run",
                hint="Pass random numbers as an input: results must be repeatable.",
            )

    def _check_function(self, domain: bytes, name: bytes) -> None:
        if not domain or domain.startswith(_RESERVED_DOMAINS):
            raise InvalidModel(f"it defines the function {_shown(name)} in the domain {_shown(domain)}")
        self._functions.add((domain, name))

    def _check_shape(self, shape: _Message) -> None:
        """Sizes that a graph declares for its inputs, outputs and intermediate results."""
        elements = 1
        for number, wire_type, start, end in self._fields_of(shape):
            if number != _DIMENSION or wire_type != _BYTES:
                continue
            for size_number, size_type, at, after in self._fields_of(_Message("dimension", start, end, 0)):
                if size_number == _SIZE and size_type == _VARINT:
                    # A size that is not known is written as 0 or as a negative number, too.
                    elements *= max(1, _signed(_varint(self.model, at, after)[0]))
                    self._check_size("a result", elements)

    def _check_size(self, what: str, elements: int) -> None:
        if elements > self.elements_max:
            raise InvalidModel(
                f"{what} is declared with {elements:,} elements; "
                f"the stage's memory allows {self.elements_max:,}",
                hint="Raise the stage's memory_bytes in pipeline.toml, or use a smaller model.",
            )


def _check_tensor_field(model: bytes | memoryview, number: int, start: int, end: int) -> None:
    is_external = number == _TENSOR_EXTERNAL_DATA or (
        # Any location but 0, "inside", however it is written.
        number == _TENSOR_DATA_LOCATION and any(byte & 0x7F for byte in model[start:end])
    )
    if is_external:
        raise InvalidModel(
            "a tensor has its data in another file",
            hint="Save the model in one file: onnx.save(model, path, save_as_external_data=False).",
        )


def _elements(message: _Message) -> int:
    """How many elements a tensor with these dims has."""
    elements, rank = 1, 0
    for part in message.kept.get(_DIMS[message.kind], []):
        position = 0
        while position < len(part):
            size, position = _varint(part, position, len(part))
            rank += 1
            if rank > RANK_MAX:
                raise InvalidModel(f"a tensor has more than {RANK_MAX} dimensions")
            if _signed(size) < 0:
                raise InvalidModel(f"a tensor has a dimension of {_signed(size):,}")
            elements *= size
    return elements


def _name(message: _Message, number: int) -> bytes:
    name = message.kept.get(number, [b""])[0]
    if len(name) > _NAME_BYTES_MAX:
        raise InvalidModel(f"a name of a {message.kind} has more than {_NAME_BYTES_MAX} bytes")
    return name


def _shown(name: bytes) -> str:
    return f"{name.decode(errors='replace')!r:.120}"


def _signed(value: int) -> int:
    """A varint's value as an int64, which is how ONNX declares sizes."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def _step_over(model: bytes | memoryview, position: int, end: int, wire_type: int) -> tuple[int, int]:
    """Where a field's content starts and ends."""
    if wire_type == _VARINT:
        start, position = position, _varint(model, position, end)[1]
    elif wire_type == _BYTES:
        length, start = _varint(model, position, end)
        position = start + length
    elif wire_type in (_FIXED64, _FIXED32):
        start, position = position, position + (8 if wire_type == _FIXED64 else 4)
    else:
        raise InvalidModel(f"wire type {wire_type} is not one that ONNX uses")
    if position > end:
        raise InvalidModel("a field is longer than its message")
    return start, position


def _varint(model: bytes | memoryview, position: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 7 * _VARINT_BYTES_MAX, 7):
        if position >= end:
            raise InvalidModel("it ends in the middle of a number")
        byte = model[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise InvalidModel(f"a number has more than {_VARINT_BYTES_MAX} bytes")
