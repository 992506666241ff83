"""Inputs from files: each is read as what it is, or the error names the tensor, the file and what to do."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tradepost.commands.inputs import read_inputs
from tradepost.errors import InvalidInput
from tradepost.pipeline.tensors import TensorDocument


def saved(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def with_header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def header(*, descr: str = "<f8", shape: str = "(1,)") -> bytes:
    return with_header(f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n")


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        zipped.writestr("x.npy", saved(np.ones(3)))
    return file.getvalue()


WHOLE = saved(np.arange(1000.0))
DAMAGED = {
    "no bytes": b"",
    "half of the magic": WHOLE[:4],
    "half of the header": WHOLE[:40],
    "half of the values": WHOLE[:-100],
    "text": b"hello\n",
    "a pickle": b"\x80\x04K\x01.",
    "an archive": archive(),
    "half of an archive": b"PK\x03\x04half",
    "another version": b"\x93NUMPY\x09\x00" + WHOLE[8:],
    "a header that never ends": with_header("{'descr': '<f8', ((((\n"),
    "a header that is too long": with_header("(" * 20_000),
    "a header without a dictionary": with_header("[]"),
    "an unknown dtype": header(descr="zz"),
    "objects": header(descr="|O"),
    "a negative shape": header(shape="(-1,)"),
    "a shape without numbers": header(shape="(True,)") + bytes(8),
    "more than the memory": header(shape=f"({1 << 50},)"),
    "more than a number": header(shape=f"({10**30},)"),
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_file_is_named_with_its_tensor(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "photo.npy"
    path.write_bytes(data)
    with pytest.raises(InvalidInput) as caught:
        read_inputs([f"photo={path}"], None)
    begin, reason = caught.value.detail.split(f"{path} cannot be read as an array of numbers: ")
    assert begin == "tensor 'photo': "
    assert reason.strip()
    assert "\n" not in reason
    assert "pickle." not in reason  # no way to run what is in a file is shown
    assert "numpy.save" in caught.value.hint


def test_arrays_and_other_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(WHOLE)
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8")
    np.save(tmp_path / "f.npy", np.asfortranarray(np.ones((2, 3), ">i4")))
    found = read_inputs([f"{name}={tmp_path / name}" for name in ("x.npy", "photo.jpg", "f.npy")], None)
    assert isinstance(found, TensorDocument)
    assert found["x.npy"].tolist() == list(range(1000))
    assert found["photo.jpg"].tolist() == [255, 216]
    assert found["f.npy"].tolist() == [[1, 1, 1], [1, 1, 1]]
    assert read_inputs([], tmp_path / "photo.jpg") == b"\xff\xd8"


@pytest.mark.parametrize("name", ["absent", "absent.npy", "folder", "folder.npy"])
def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.startswith("folder"):
        path.mkdir()
    reason = "Is a directory" if path.exists() else "No such file or directory"
    with pytest.raises(InvalidInput) as caught:
        read_inputs([f"photo={path}"], None)
    assert caught.value.detail == f"tensor 'photo': {path}: {reason}"
    with pytest.raises(InvalidInput) as caught:
        read_inputs([], path)
    assert caught.value.detail == f"--document: {path}: {reason}"


def test_one_tensor_has_one_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"1")
    with pytest.raises(InvalidInput, match="'x' is given twice"):
        read_inputs([f"x={tmp_path / 'x'}", f"x={tmp_path / 'x'}"], None)
    for wrong in ("x", "x=", ""):
        with pytest.raises(InvalidInput, match="write NAME=FILE"):
            read_inputs([wrong], None)
