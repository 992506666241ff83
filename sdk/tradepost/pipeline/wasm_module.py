"""What a Wasm module asks for and offers, read from its bytes without an engine.

Publisher and broker check kernels on machines that have no engine, and the sandbox checks before it compiles.
So this reads the sections that make the interface (types, imports, functions, tables, memory, exports) and
steps over the rest. It is deliberately narrower than the specification (one memory, one table, 32-bit,
unshared, plain function types): what it does not know is refused. Bytes from a stranger can only give an
`InvalidKernel`, in bounded time and memory.

Format: https://webassembly.github.io/spec/core/binary/modules.html
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Final, TypeVar

from tradepost.errors import InvalidKernel

WASM_BYTES_MAX: Final = 16 << 20
PAGE_BYTES: Final = 1 << 16

_MAGIC: Final = b"\0asm"
_CORE_VERSION: Final = b"\x01\0\0\0"
_COMPONENT_VERSION: Final = b"\x0d\0\x01\0"

#: Section ids in the order in which a module must have them. 0 (custom) may stand anywhere; 13 (exception
#: tags) is refused.
_SECTION_ORDER: Final = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 10, 11)
_CUSTOM: Final = 0

_VALUE_TYPES: Final = {0x7F: "i32", 0x7E: "i64", 0x7D: "f32", 0x7C: "f64", 0x7B: "v128", 0x70: "funcref"}
_FUNCTION_TYPE: Final = 0x60
_FUNCREF: Final = 0x70
_HAS_MAXIMUM: Final = 0x01

#: Far above what compilers produce, and low enough that a hostile module costs little.
_TYPES_MAX: Final = 10_000
_FUNCTIONS_MAX: Final = 200_000
_IMPORTS_MAX: Final = 1_000
_EXPORTS_MAX: Final = 10_000
_VALUES_MAX: Final = 1_000  # parameters or results of one function type

_Item = TypeVar("_Item")


class ExternKind(StrEnum):
    """The kinds of thing that modules import and export."""

    FUNCTION = "function"
    TABLE = "table"
    MEMORY = "memory"
    GLOBAL = "global"


_KINDS: Final = tuple(ExternKind)  # in the order of their codes


@dataclass(frozen=True)
class Signature:
    """A function's type, as names such as `i32`."""

    parameters: tuple[str, ...]
    results: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"({', '.join(self.parameters)}) -> ({', '.join(self.results)})"


@dataclass(frozen=True)
class Import:
    """One import. `signature` is None unless it is a function."""

    module: str
    name: str
    kind: ExternKind
    signature: Signature | None = None

    def __str__(self) -> str:
        # A stranger chose these names, so an error message quotes and cuts them.
        return f"{f'{self.module}.{self.name}'!r:.120}"


@dataclass(frozen=True)
class Export:
    """One export. `signature` is None unless it is a function."""

    name: str
    kind: ExternKind
    signature: Signature | None = None


@dataclass(frozen=True)
class ModuleInterface:
    """Everything a module asks of its host and offers to it. Sizes are minima, at instantiation."""

    imports: tuple[Import, ...]
    exports: tuple[Export, ...]
    memory_bytes: int = 0
    table_elements: int = 0


def read_interface(wasm: bytes) -> ModuleInterface:
    """The interface of the core module in `wasm`. Raises `InvalidKernel` for anything else."""
    if len(wasm) > WASM_BYTES_MAX:
        raise InvalidKernel(f"the module has {len(wasm):,} bytes; the limit is {WASM_BYTES_MAX:,}")
    if wasm[:4] != _MAGIC:
        raise InvalidKernel(
            "it does not begin with the bytes \\0asm",
            hint="Use the compiled binary; the text format (.wat) is not accepted.",
        )
    if wasm[4:8] == _COMPONENT_VERSION:
        raise InvalidKernel(
            "it is a component, not a core module",
            hint="Build a core module, for example for wasm32-wasip1 (preview 1).",
        )
    if wasm[4:8] != _CORE_VERSION:
        raise InvalidKernel(f"binary format version {wasm[4:8].hex()} is not 1")
    reader = _InterfaceReader()
    reader.read(_Cursor(wasm, 8, len(wasm)))
    return ModuleInterface(
        imports=tuple(reader.imports),
        exports=tuple(reader.exports),
        memory_bytes=sum(reader.memories_pages) * PAGE_BYTES,
        table_elements=sum(reader.tables_elements),
    )


class _Cursor:
    """A position in the bytes of one section; reading past its end is an error, never a short result."""

    def __init__(self, wasm: bytes, position: int, end: int) -> None:
        self._wasm = wasm
        self.position = position
        self.end = end

    def byte(self) -> int:
        if self.position >= self.end:
            raise InvalidKernel(f"it ends too early, at byte {self.position}")
        self.position += 1
        return self._wasm[self.position - 1]

    def u32(self) -> int:
        """An unsigned LEB128 number of at most 32 bits."""
        value = 0
        for shift in range(0, 35, 7):
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >> 32:
                    break
                return value
        raise InvalidKernel(f"a number at byte {self.position} has more than 32 bits")

    def part(self, length: int) -> _Cursor:
        """A cursor over the next `length` bytes, which this one steps over."""
        if length > self.end - self.position:
            raise InvalidKernel(f"a part at byte {self.position} extends beyond the end")
        part = _Cursor(self._wasm, self.position, self.position + length)
        self.position = part.end
        return part

    def name(self) -> str:
        part = self.part(self.u32())
        try:
            return self._wasm[part.position : part.end].decode()
        except UnicodeDecodeError:
            raise InvalidKernel(f"a name at byte {part.position} is not UTF-8") from None

    def items(self, read: Callable[[_Cursor], _Item], *, count_max: int, what: str) -> list[_Item]:
        """A vector of at most `count_max` items."""
        count = self.u32()
        if count > count_max:
            raise InvalidKernel(f"it has {count:,} {what}; kernels may have {count_max:,}")
        return [read(self) for _ in range(count)]


@dataclass
class _InterfaceReader:
    imports: list[Import] = field(default_factory=list)
    exports: list[Export] = field(default_factory=list)
    memories_pages: list[int] = field(default_factory=list)
    tables_elements: list[int] = field(default_factory=list)
    _types: list[Signature] = field(default_factory=list)
    _functions: list[Signature] = field(default_factory=list)

    def read(self, module: _Cursor) -> None:
        readers: dict[int, Callable[[_Cursor], None]] = {
            1: self._read_types,
            2: self._read_imports,
            3: self._read_functions,
            4: self._read_tables,
            5: self._read_memories,
            7: self._read_exports,
        }
        order = []
        while module.position < module.end:
            section_id = module.byte()
            section = module.part(module.u32())
            if section_id == _CUSTOM:
                continue
            if section_id not in _SECTION_ORDER:
                raise InvalidKernel(
                    f"section {section_id} belongs to a Wasm proposal that is not allowed in kernels"
                )
            order.append(_SECTION_ORDER.index(section_id))
            if section_id in readers:
                readers[section_id](section)
                if section.position != section.end:
                    raise InvalidKernel(f"section {section_id} has bytes after its content")
        if any(first >= second for first, second in pairwise(order)):
            raise InvalidKernel("its sections are repeated or out of order")

    def _read_types(self, section: _Cursor) -> None:
        self._types = section.items(_read_signature, count_max=_TYPES_MAX, what="types")

    def _read_imports(self, section: _Cursor) -> None:
        self.imports = section.items(self._read_import, count_max=_IMPORTS_MAX, what="imports")

    def _read_import(self, section: _Cursor) -> Import:
        module, name, kind = section.name(), section.name(), _read_kind(section)
        if kind is not ExternKind.FUNCTION:
            raise InvalidKernel(
                f"it imports the {kind} {Import(module, name, kind)}",
                hint="A kernel may import only functions: let it define and export its own memory.",
            )
        signature = self._type(section.u32())
        self._functions.append(signature)
        return Import(module, name, kind, signature)

    def _read_functions(self, section: _Cursor) -> None:
        self._functions += section.items(
            lambda item: self._type(item.u32()), count_max=_FUNCTIONS_MAX, what="functions"
        )

    def _read_tables(self, section: _Cursor) -> None:
        self.tables_elements = section.items(_read_table, count_max=1, what="tables")

    def _read_memories(self, section: _Cursor) -> None:
        self.memories_pages = section.items(_read_memory, count_max=1, what="memories")

    def _read_exports(self, section: _Cursor) -> None:
        self.exports = section.items(self._read_export, count_max=_EXPORTS_MAX, what="exports")
        if len({export.name for export in self.exports}) < len(self.exports):
            raise InvalidKernel("it exports a name twice")

    def _read_export(self, section: _Cursor) -> Export:
        name, kind, index = section.name(), _read_kind(section), section.u32()
        if kind is not ExternKind.FUNCTION:
            return Export(name, kind)
        if index >= len(self._functions):
            raise InvalidKernel(f"it exports {name!r:.120} as function {index}, which does not exist")
        return Export(name, kind, self._functions[index])

    def _type(self, index: int) -> Signature:
        if index >= len(self._types):
            raise InvalidKernel(f"it refers to type {index}, which does not exist")
        return self._types[index]


def _read_signature(section: _Cursor) -> Signature:
    form = section.byte()
    if form != _FUNCTION_TYPE:
        raise InvalidKernel(
            f"type form {form:#04x} belongs to a Wasm proposal that is not allowed in kernels"
        )
    parameters = section.items(_read_value_type, count_max=_VALUES_MAX, what="parameters of one function")
    results = section.items(_read_value_type, count_max=_VALUES_MAX, what="results of one function")
    return Signature(tuple(parameters), tuple(results))


def _read_value_type(section: _Cursor) -> str:
    code = section.byte()
    if code not in _VALUE_TYPES:
        raise InvalidKernel(
            f"value type {code:#04x} belongs to a Wasm proposal that is not allowed in kernels"
        )
    return _VALUE_TYPES[code]


def _read_kind(section: _Cursor) -> ExternKind:
    code = section.byte()
    if code >= len(_KINDS):
        raise InvalidKernel(
            f"extern kind {code:#04x} belongs to a Wasm proposal that is not allowed in kernels"
        )
    return _KINDS[code]


def _read_table(section: _Cursor) -> int:
    if section.byte() != _FUNCREF:
        raise InvalidKernel("it has a table of something other than plain function references")
    return _read_limits(section, "table")


def _read_memory(section: _Cursor) -> int:
    return _read_limits(section, "memory")


def _read_limits(section: _Cursor, what: str) -> int:
    """The minimum of a table's or memory's limits."""
    flags = section.byte()
    if flags & ~_HAS_MAXIMUM:
        raise InvalidKernel(
            f"its {what} is shared, 64-bit or of a custom page size (limits flags {flags:#04x})",
            hint="Build without threads, for wasm32.",
        )
    minimum = section.u32()
    if flags & _HAS_MAXIMUM:
        section.u32()
    return minimum
