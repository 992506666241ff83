"""`pipeline.toml`, the publisher's description of a pipeline: see `docs/pipelines.md`.

The file is translated into the manifest's own shape and then decoded as a manifest from a stranger would be,
so one schema holds for both. What this module adds is the way back: an error speaks of the stage and the
field as the author wrote them, and an unknown key suggests the one that was probably meant.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from tradepost.content import Cid
from tradepost.errors import InvalidPipeline, TradepostError
from tradepost.pipeline.manifest import (
    KernelStage,
    Manifest,
    ModelStage,
    Name,
    OutputSpec,
    PipelineLimits,
    TensorName,
    TensorSpec,
    Tolerance,
    Version,
    WorkUnits,
    decode_manifest,
    encode_manifest,
)
from tradepost.pipeline.tensors import DTYPES
from tradepost.schema_errors import describe_mismatch
from tradepost_signing.publishing.artifacts import Artifact
from tradepost_signing.publishing.kernel_sources import installed_kernel
from tradepost_signing.publishing.names import among, check_connections, check_name, check_stage_names

ANY_LENGTH: Final = "?"
#: The key of an output's reference, where the output is declared as well.
_SOURCE: Final = "from"

#: What safetensors or other tools name dtypes that no tensor document of this project has.
_NARROW_FLOAT: Final = re.compile(r"bf(loat)?16|(e\dm\d|f(loat)?[468]($|_))", re.IGNORECASE)
_COMPLEX: Final = ("C64", "C128", "COMPLEX64", "COMPLEX128")

_PARTS: Final[Mapping[str, type[msgspec.Struct]]] = {"work_units": WorkUnits, "limits": PipelineLimits}
_STAGES: Final[Mapping[str, type[msgspec.Struct]]] = {"kernel": KernelStage, "model": ModelStage}

#: Gives the kernel that a reference such as `builtin:topk` names, or `None` for a path.
KernelSource = Callable[[str], bytes | None]


@dataclass(frozen=True, slots=True)
class AuthoredPipeline:
    """A pipeline before signing: the manifest, and the artifacts that it links to, by CID."""

    manifest: Manifest
    artifacts: Mapping[Cid, Artifact]


def load_pipeline(path: Path, *, kernel_source: KernelSource = installed_kernel) -> AuthoredPipeline:
    """The pipeline that the file at `path` describes; relative paths in it start at its folder.

    Raises `InvalidPipeline`, which names the stage and the mend, or what `kernel_source` raises.
    """
    table = _read_toml(path)
    reader = _Reader(folder=path.parent, kernel_source=kernel_source)
    manifest = _convert(reader.manifest(table))
    # Decoded again, it is what broker and workers will hold it to: canonical, within its cap, connected.
    return AuthoredPipeline(decode_manifest(encode_manifest(manifest)), reader.artifacts)


class _Reader:
    """Turns the tables of one file into the manifest's tree, and collects the artifacts."""

    def __init__(self, *, folder: Path, kernel_source: KernelSource) -> None:
        self._folder = folder
        self._kernel_source = kernel_source
        self.artifacts: dict[Cid, Artifact] = {}

    def manifest(self, table: dict[str, Any]) -> dict[str, Any]:
        known = {*Manifest.__struct_fields__, "stage"} - {"format", "stages", "output_specs"}
        _check_keys(table, known, where="the file")
        for name, part in _PARTS.items():
            _check_keys(table.get(name), part.__struct_fields__, where=f"[{name}]")
        stages = table.pop("stage", [])
        if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
            raise InvalidPipeline("stage is not a list of tables", hint="Begin each stage with [[stage]].")
        check_name(table.get("name"), Name, "the pipeline's name")
        check_name(table.get("version"), Version, "the pipeline's version")
        inputs = table.get("inputs")
        if isinstance(inputs, dict):
            for name in inputs:
                check_name(name, TensorName, "the name of a pipeline's input")
            table["inputs"] = {name: _input_spec(name, spec) for name, spec in inputs.items()}
        table |= _outputs(table.get("outputs"))
        check_connections(table.get("outputs"), "the name of a pipeline's output")
        return table | {"stages": [self._stage(stage, place) for place, stage in enumerate(stages, start=1)]}

    def _stage(self, stage: dict[str, Any], place: int) -> dict[str, Any]:
        name = str(stage.get("name", f"number {place}"))
        kinds = [kind for kind in _STAGES if kind in stage]
        if len(kinds) != 1:
            raise InvalidPipeline(
                "a stage must have either a kernel or a model",
                stage=name,
                hint='Set kernel = "builtin:NAME", kernel = "FILE.wasm" or model = "FILE.onnx".',
            )
        kind = kinds[0]
        known = {*_STAGES[kind].__struct_fields__, kind} - {"artifact"}
        _check_keys(stage, known, where=f"a {kind} stage", stage=name)
        _check_keys(stage.get("tolerance"), Tolerance.__struct_fields__, where="tolerance", stage=name)
        check_stage_names(stage, kind, name)
        source = stage.pop(kind)
        if not isinstance(source, str):
            raise InvalidPipeline(f"{kind} is {source!r}; it must be a string", stage=name)
        artifact = self._artifact(kind, source, name)
        self.artifacts[artifact.cid] = artifact
        if isinstance(metadata := stage.get("metadata"), dict):
            stage["metadata"] = {key: self._text(key, value, name) for key, value in metadata.items()}
        return stage | {"kind": kind, "artifact": artifact.cid}

    def _artifact(self, kind: str, source: str, stage: str) -> Artifact:
        try:
            wasm = self._kernel_source(source) if kind == "kernel" else None
            return Artifact.of(source, self._folder / source if wasm is None else wasm)
        except TradepostError as error:
            error.stage = stage
            raise
        except (OSError, ValueError) as error:  # ValueError: a path that no file can have
            reason = getattr(error, "strerror", None) or error
            raise InvalidPipeline(f"{kind} {source!r}: {reason}", stage=stage) from None

    def _text(self, key: str, value: Any, stage: str) -> str:
        if isinstance(value, str):
            return value
        if not isinstance(value, dict) or list(value) != ["file"] or not isinstance(value["file"], str):
            raise InvalidPipeline(
                f"metadata.{key} is {value!r}",
                stage=stage,
                hint='Metadata values must be strings, such as "255", or { file = "labels.txt" }.',
            )
        try:
            text = (self._folder / value["file"]).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise InvalidPipeline(f"metadata.{key}: file {value['file']!r}: {error}", stage=stage) from None
        # As a shell's $(...) does: the newline that ends a text file is not part of what it says.
        return text.removesuffix("\n")


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        # Some editors begin a file with a byte order mark, which TOML does not have.
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise InvalidPipeline(f"{path}: {error.strerror}", hint="Use the path of a pipeline.toml.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidPipeline(f"{path} is not TOML: {error}") from None


def _input_spec(name: str, spec: Any) -> Any:
    _check_keys(spec, TensorSpec.__struct_fields__, where=f"inputs.{name}")
    return _tensor_spec(f"inputs.{name}", spec)


def _outputs(table: Any) -> dict[str, Any]:
    """The manifest's `outputs` and `output_specs`, from references with or without a declaration."""
    if not isinstance(table, dict):
        return {}
    references, specs = dict(table), {}
    for name, output in table.items():
        if not isinstance(output, dict):
            continue
        _check_keys(output, [_SOURCE, *OutputSpec.__struct_fields__], where=f"outputs.{name}")
        if _SOURCE not in output:
            raise InvalidPipeline(
                f"outputs.{name} has no key {_SOURCE!r}", hint=f'Set {_SOURCE} = "STAGE.TENSOR".'
            )
        references[name] = output[_SOURCE]
        declared = {key: value for key, value in output.items() if key != _SOURCE}
        specs[name] = _tensor_spec(f"outputs.{name}", declared)
    return {"outputs": references, "output_specs": specs}


def _tensor_spec(where: str, spec: Any) -> Any:
    if isinstance(spec, dict) and isinstance(dtype := spec.get("dtype"), str) and dtype not in DTYPES:
        raise InvalidPipeline(f"{where} has the dtype {dtype[:40]!r}", hint=_dtype_hint(dtype))
    if not isinstance(spec, dict) or not isinstance(shape := spec.get("shape"), list):
        return spec
    for size in shape:
        if size != ANY_LENGTH and not isinstance(size, int):
            raise InvalidPipeline(
                f"{where}.shape has {size!r}", hint=f'Write a length, or "{ANY_LENGTH}" for any.'
            )
    return spec | {"shape": [None if size == ANY_LENGTH else size for size in shape]}


def _dtype_hint(dtype: str) -> str:
    if _NARROW_FLOAT.match(dtype):
        return "BF16, F8 and narrower floats are not supported. Use F32, in which their values are exact."
    if dtype.upper() in _COMPLEX:
        return "Complex numbers are not supported. Use two tensors of floats."
    return among(dtype.upper(), DTYPES)


def _check_keys(table: Any, known: Iterable[str], *, where: str, stage: str | None = None) -> None:
    if not isinstance(table, dict):
        return  # absent, or of a type that the schema refuses
    known = sorted(known)
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Valid keys: {', '.join(known)}."
            raise InvalidPipeline(f"{where} has no key {key!r}", stage=stage, hint=hint)


def _convert(tree: dict[str, Any]) -> Manifest:
    try:
        return msgspec.convert(tree, Manifest)
    except msgspec.ValidationError as error:
        problem, stage = describe_mismatch(error, whole="pipeline.toml", data=tree), None
        if match := re.search(r"stages\[(\d+)\](\.?)", problem):
            stage = str(tree["stages"][int(match[1])].get("name", f"number {int(match[1]) + 1}"))
            problem = problem.replace(match[0], "" if match[2] else "the stage")
        raise InvalidPipeline(problem, stage=stage) from None
