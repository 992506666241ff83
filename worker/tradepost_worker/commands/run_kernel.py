"""`tradepost kernel`: run a kernel offline in the workers' sandbox, and inspect kernels."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import tradepost_kernels
from tradepost.commands.inputs import InputTensors, read_inputs
from tradepost.commands.number_options import integer_option, number_option
from tradepost.commands.options import Json
from tradepost.commands.output_file import check_writable, write_output
from tradepost.commands.terminal import show, show_json, show_text
from tradepost.content import add_bytes
from tradepost.errors import InvalidInput, InvalidKernel, InvalidTensorDocument, KernelTrap
from tradepost.pipeline.kernel_abi import check_interface
from tradepost.pipeline.tensors import TensorDocument, decode, encode
from tradepost.pipeline.wasm_module import read_interface
from tradepost_worker.runner.kernel_sandbox import KernelRun, Sandbox

_FUEL = 1_000_000_000
_MEMORY_MIB = 64
_BUILTIN = "builtin:"

KernelName = Annotated[str, typer.Argument(help="A .wasm file, or the name of a built-in kernel.")]

app = typer.Typer(help="Run and inspect kernels offline.", no_args_is_help=True, add_completion=False)


@app.command()
def run(
    kernel: KernelName,
    tensor: InputTensors = None,
    document: Annotated[
        Path | None, typer.Option("--document", "--input", help="The input as a safetensors file.")
    ] = None,
    metadata: Annotated[list[str] | None, typer.Option(help="A parameter as KEY=VALUE.")] = None,
    fuel: Annotated[int, integer_option(low=1, about="Maximum fuel.")] = _FUEL,
    memory_mib: Annotated[
        int, integer_option(low=1, high=4096, about="Maximum memory, in MiB.")
    ] = _MEMORY_MIB,
    wall_s: Annotated[float, number_option(low=0.001, about="Maximum time, in seconds.")] = 30.0,
    output: Annotated[
        Path | None, typer.Option(help="Write the output document to this file (safetensors).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a kernel on one document, exactly as a worker would.

    Example: tradepost kernel run topk --tensor scores=scores.npy --metadata k=5
    """
    check_writable(output)
    wasm = read_kernel(kernel)
    inputs = _with_metadata(read_inputs(tensor or [], document), metadata or [])
    loaded = Sandbox().load(wasm)
    started_s = time.perf_counter()
    result = loaded.run(
        encode(inputs),
        fuel=fuel,
        memory_bytes_max=memory_mib << 20,
        output_bytes_max=memory_mib << 20,
        wall_s_max=wall_s,
    )
    wall_s = time.perf_counter() - started_s
    try:
        returned = decode(result.output)
    except InvalidTensorDocument as error:
        raise KernelTrap(f"its output is not a tensor document: {error}", reason="bad-document") from None
    write_output(output, result.output)
    if as_json:
        show_json(_facts(result, returned, wall_s))
    else:
        show_text(_for_people(result, returned, wall_s))


@app.command("list")
def list_kernels(as_json: Json = False) -> None:
    """List the built-in kernels."""
    kernels = {name: tradepost_kernels.info(name) for name in tradepost_kernels.names()}
    width = max(map(len, kernels)) + 2
    lines = (
        f"{name:<{width}}{info.form:<9}{info.bytes:>7,} bytes  {info.summary}"
        for name, info in kernels.items()
    )
    show(kernels, "\n".join(lines), as_json=as_json)


@app.command()
def headers(as_json: Json = False) -> None:
    """Print the folder of the C headers for kernels, for a compiler's -I."""
    folder = str(tradepost_kernels.headers())
    show({"headers": folder}, folder, as_json=as_json)


@app.command()
def inspect(kernel: KernelName, as_json: Json = False) -> None:
    """Check a module against the kernel ABI and show its interface. Exit 0 only if it is a kernel."""
    wasm = read_kernel(kernel)
    interface = read_interface(wasm)
    facts: dict[str, Any] = {
        "form": check_interface(interface),
        "cid": add_bytes(wasm, put=None),
        "sha256": hashlib.sha256(wasm).hexdigest(),
        "bytes": len(wasm),
        "memory_bytes_min": interface.memory_bytes,
        "imports": [item.name for item in interface.imports],
        "exports": [item.name for item in interface.exports],
    }
    lines = (
        f"{key}: {', '.join(value) or 'none' if isinstance(value, list) else value}"
        for key, value in facts.items()
    )
    show(facts, "\n".join(lines), as_json=as_json)


def read_kernel(kernel: str) -> bytes:
    """The bytes of a `.wasm` file, or of the built-in kernel of this name. Raises `InvalidKernel`."""
    if not kernel.endswith(".wasm"):
        return tradepost_kernels.load(kernel.removeprefix(_BUILTIN))
    try:
        return Path(kernel).read_bytes()
    except OSError as error:
        raise InvalidKernel(f"{kernel} cannot be read: {error.strerror}") from None


def _with_metadata(inputs: TensorDocument | bytes, options: list[str]) -> TensorDocument:
    """The input document with the parameters merged in, as a worker merges a stage's metadata."""
    document = decode(inputs) if isinstance(inputs, bytes) else inputs
    metadata = dict(document.metadata)
    for option in options:
        key, separator, value = option.partition("=")
        if not separator:
            raise InvalidInput(f"--metadata {option!r}: write KEY=VALUE", hint="")
        metadata[key] = value
    return TensorDocument(document.tensors, metadata)


def _facts(result: KernelRun, returned: TensorDocument, wall_s: float) -> dict[str, Any]:
    return {
        "tensors": {name: tensor.tolist() for name, tensor in returned.tensors.items()},
        "metadata": dict(returned.metadata),
        "output_bytes": len(result.output),
        "fuel_used": result.fuel_used,
        "wall_ms": round(wall_s * 1000, 3),
        "stderr": result.stderr,
    }


def _for_people(result: KernelRun, returned: TensorDocument, wall_s: float) -> str:
    lines = [
        f"{name} {list(tensor.shape)}: {np.array2string(tensor, threshold=32)}"
        for name, tensor in returned.tensors.items()
    ]
    lines += [f"{key}: {text}" for key, text in returned.metadata.items()]
    if result.stderr:
        lines.append(f"stderr: {result.stderr.rstrip()}")
    lines.append(f"Used {result.fuel_used:,} fuel in {wall_s * 1000:.2f} ms.")
    return "\n".join(lines)
