"""The kernels in this package, by name. `kernels.lock.json` is written by `wasm_kernels/build.py`."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from pathlib import Path

import msgspec

from tradepost.errors import ContentMismatch, InvalidKernel
from tradepost.pipeline.kernel_abi import KernelForm


class KernelInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One kernel's entry in the lock file. `sources` are SHA-256 hashes by file name."""

    summary: str
    form: KernelForm
    sha256: str
    bytes: int
    flags: str
    sources: dict[str, str]
    licence: str


class _Lock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    toolchain: str
    kernels: dict[str, KernelInfo]


@cache
def _lock() -> _Lock:
    text = files(__package__).joinpath("kernels.lock.json").read_bytes()
    return msgspec.json.decode(text, type=_Lock)


def headers() -> Path:
    """The folder of the C headers for kernels, for a compiler's `-I`."""
    return Path(str(files(__package__).joinpath("include")))


def names() -> list[str]:
    """The kernels' names, sorted."""
    return sorted(_lock().kernels)


def info(name: str) -> KernelInfo:
    """What the lock says of the kernel `name`. Raises `InvalidKernel` if there is none."""
    try:
        return _lock().kernels[name]
    except KeyError:
        raise InvalidKernel(
            f"there is no built-in kernel {name!r}", hint=f"There are: {', '.join(names())}."
        ) from None


def load(name: str) -> bytes:
    """The Wasm bytes of the kernel `name`.

    Raises `InvalidKernel` if there is none, `ContentMismatch` if the bytes are not those that were locked.
    """
    expected = info(name).sha256
    wasm = files(__package__).joinpath("compiled", f"{name}.wasm").read_bytes()
    if hashlib.sha256(wasm).hexdigest() != expected:
        raise ContentMismatch(
            f"the built-in kernel {name} is not the one in kernels.lock.json",
            hint="Reinstall tradepost; in its repository, run `make kernels`.",
        )
    return wasm
