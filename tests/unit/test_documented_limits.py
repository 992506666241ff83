"""The limits in docs/pipelines.md are those of the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from tradepost.pipeline import manifest
from tradepost.pipeline.manifest import KernelStage, Manifest, ModelStage
from tradepost.pipeline.onnx_profile import FIELDS_MAX
from tradepost.pipeline.wasm_module import WASM_BYTES_MAX
from tradepost_broker.settings import Settings

PAGE: Final = " ".join(
    (Path(__file__).parents[2] / "docs" / "pipelines.md").read_text(encoding="utf-8").split()
)
_UNITS: Final = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "hours": 3_600_000}


def type_of(kind: type, path: str) -> Any:
    """The type of a field, with its constraints."""
    found: Any = msgspec.inspect.type_info(kind)
    for name in path.split("."):
        [field] = [field for field in found.fields if field.encode_name == name]
        found = field.type
    return found


def default_of(kind: type, path: str) -> Any:
    *outer, last = path.split(".")
    for name in outer:
        kind = msgspec.structs.fields(kind)[_index(kind, name)].type
    return msgspec.structs.fields(kind)[_index(kind, last)].default


def _index(kind: Any, name: str) -> int:
    return [field.name for field in msgspec.structs.fields(kind)].index(name)


def longest(pattern: str) -> int:
    """How long a name may be whose pattern is one character and so many more."""
    found = re.search(r"\{0,(\d+)\}\\Z$", pattern)
    assert found is not None
    return 1 + int(found[1])


def lengths(*fields: tuple[type, str]) -> int:
    """The most entries that each of these fields may have, which must be the same."""
    types = [type_of(kind, path) for kind, path in fields]
    [length] = {one.max_length for found in types for one in getattr(found, "types", (found,))}
    return int(length)


KERNEL_METADATA: Final = type_of(KernelStage, "metadata")
INPUTS: Final = ((KernelStage, "inputs"), (ModelStage, "inputs"), (Manifest, "inputs"))
OUTPUTS: Final = ((KernelStage, "outputs"), (ModelStage, "outputs"), (Manifest, "outputs"))
_N: Final = r"([\d,]+)"

#: What the page says, with a group for each number and its unit, and what the numbers are.
LIMITS: Final[list[tuple[str, tuple[int, ...]]]] = [
    (rf"name of the pipeline: [^|]* at most {_N}", (longest(type_of(Manifest, "name").pattern),)),
    (rf"`description` \| optional, at most {_N} characters", (type_of(Manifest, "description").max_length,)),
    (
        rf"A tensor's name has [^.]*[^|]*? at most {_N} characters",
        (longest(type_of(Manifest, "inputs").key_type.pattern),),
    ),
    (
        rf"ONNX graph may have any name of up to {_N} characters",
        (type_of(ModelStage, "inputs").key_type.max_length,),
    ),
    (rf"A pipeline has at most {_N} stages", (lengths((Manifest, "stages")),)),
    (rf"at most {_N} inputs and {_N} outputs", (lengths(*INPUTS), lengths(*OUTPUTS))),
    (
        rf"`metadata` has at most {_N} entries of {_N} characters",
        (KERNEL_METADATA.max_length, KERNEL_METADATA.value_type.max_length),
    ),
    (rf"inserts a file's text [^|]* at most {_N} characters", (KERNEL_METADATA.value_type.max_length,)),
    (rf"The manifest has at most {_N} bytes", (manifest.MANIFEST_BYTES_MAX,)),
    (
        r"kernel: linear memory, (\d+ KiB) to (\d+ GiB) \(default (\d+ MiB)\)",
        (
            type_of(KernelStage, "memory_bytes").ge,
            type_of(KernelStage, "memory_bytes").le,
            default_of(KernelStage, "memory_bytes"),
        ),
    ),
    (
        r"address space while it is loaded, from (\d+ MiB) \(default (\d+ GiB)\)",
        (type_of(ModelStage, "memory_bytes").ge, default_of(ModelStage, "memory_bytes")),
    ),
    (rf"`fuel` \| maximum of one run[^|]*\(default {_N}\)", (default_of(KernelStage, "fuel"),)),
    (
        rf"`limits.wall_ms` \| wall-clock time of one run, up to (\d+ hours) \(default {_N}\)",
        (type_of(Manifest, "limits.wall_ms").le, default_of(Manifest, "limits.wall_ms")),
    ),
    (r"the largest input document \(default (\d+ MiB)\)", (default_of(Manifest, "limits.input_bytes"),)),
    (r"the largest output document \(default (\d+ MiB)\)", (default_of(Manifest, "limits.output_bytes"),)),
    (rf"A kernel has at most (\d+ MiB), and a model at most {_N} fields", (WASM_BYTES_MAX, FIELDS_MAX)),
    (
        r"input and output limits of up to (\d+ MiB), and keeps (\d+ GiB) of uploads",
        (Settings().document_bytes_max, Settings().upload_bytes_max),
    ),
]


def number(text: str) -> int:
    digits, _, unit = text.partition(" ")
    return int(digits.replace(",", "")) * _UNITS[unit]


@pytest.mark.parametrize(("words", "limits"), LIMITS)
def test_a_limit_on_the_page_is_that_of_the_code(words: str, limits: tuple[int, ...]) -> None:
    found = re.search(words, PAGE)
    assert found is not None, f"docs/pipelines.md does not say {words!r}"
    assert tuple(map(number, found.groups())) == limits


def test_every_limit_on_the_page_is_compared() -> None:
    held = {
        place
        for words, _ in LIMITS
        for match in re.finditer(words, PAGE)
        for place in range(match.start(), match.end())
    }
    limits = re.finditer(r"(?:at most|up to) (?:\d|[\d,]+ (?:MiB|GiB|KiB))[\d,]*", PAGE)
    free = [PAGE[limit.start() - 40 : limit.end() + 20] for limit in limits if limit.end() - 1 not in held]
    assert not free, "\n".join(free)
