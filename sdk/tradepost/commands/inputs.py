"""Inputs given on the command line: tensors from files, or a complete document."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from tradepost.errors import InvalidInput
from tradepost.pipeline.tensors import TensorDocument

InputTensors = Annotated[
    list[str] | None,
    typer.Option("--tensor", help="An input as NAME=FILE: a .npy array, or any file as bytes (U8)."),
]


def read_inputs(tensors: list[str], document: Path | None) -> TensorDocument | bytes:
    """The input that the options name. Raises `InvalidInput` for a bad option or an unreadable file."""
    if (document is None) == (not tensors):
        raise InvalidInput("give either --document FILE or one --tensor NAME=FILE for each input")
    try:
        if document is not None:
            return document.read_bytes()
        named: dict[str, Any] = {}
        for option in tensors:
            name, _, path = option.partition("=")
            if not path:
                raise InvalidInput(f"--tensor {option!r}: write NAME=FILE")
            named[name] = _read_tensor(name, Path(path))
    except (OSError, ValueError) as error:
        raise InvalidInput(str(error), hint="Check the name of the file.") from None
    return TensorDocument(tensors=named)


def _read_tensor(name: str, path: Path) -> Any:
    if path.suffix == ".npy":
        try:
            return np.load(path, allow_pickle=False)
        except (ValueError, EOFError, UnicodeDecodeError) as error:
            raise InvalidInput(
                f"tensor {name!r}: {path} is not an array of numbers: {error}",
                hint="Save one array of numbers: numpy.save(FILE, array).",
            ) from None
    return np.frombuffer(path.read_bytes(), dtype=np.uint8)
