"""Inputs given on the command line: tensors from files, or a complete document."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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
InputDocument = Annotated[
    Path | None, typer.Option("--document", help="The complete input as a safetensors file.")
]


def read_inputs(tensors: list[str], document: Path | None) -> TensorDocument | bytes:
    """The input that the options name. Raises `InvalidInput` for a bad option or an unreadable file."""
    if (document is None) == (not tensors):
        raise InvalidInput("give either --document FILE or one --tensor NAME=FILE for each input")
    if document is not None:
        with _reading(document, "--document"):
            return document.read_bytes()
    named: dict[str, Any] = {}
    for option in tensors:
        name, _, path = option.partition("=")
        if not path:
            raise InvalidInput(f"--tensor {option!r}: write NAME=FILE")
        if name in named:
            raise InvalidInput(f"--tensor {name!r} is given twice", hint="Name one file for each input.")
        with _reading(Path(path), f"tensor {name!r}"):
            named[name] = _read_tensor(name, Path(path))
    return TensorDocument(tensors=named)


@contextmanager
def _reading(path: Path, what: str) -> Iterator[None]:
    """Raise `InvalidInput`, which says what the file was for, if it cannot be read."""
    try:
        yield
    except OSError as error:
        raise InvalidInput(
            f"{what}: {path}: {error.strerror or error}", hint="Check the name of the file."
        ) from None


def _read_tensor(name: str, path: Path) -> Any:
    if path.suffix != ".npy":
        return np.frombuffer(path.read_bytes(), dtype=np.uint8)
    with path.open("rb") as file:
        try:
            # `numpy.load` would take archives and pickles for arrays, by the file's first bytes.
            return np.lib.format.read_array(file, allow_pickle=False)
        except OSError:
            raise
        except Exception as error:  # NumPy does not say what it raises for a damaged file
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise InvalidInput(
                f"tensor {name!r}: {path} cannot be read as an array of numbers: {reason}",
                hint="Save one array of numbers again: numpy.save(FILE, array).",
            ) from None
