"""Finds `builtin:NAME` and similar kernels in installed packages.

An entry point in the group `tradepost.kernel_sources` is named after the scheme (`builtin`). It loads a
function from a kernel's name to its Wasm bytes, which raises `InvalidKernel` for a name it does not know.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Final

from tradepost.errors import InvalidPipeline

GROUP: Final = "tradepost.kernel_sources"
_REFERENCE: Final = re.compile(r"([a-z][a-z0-9_-]+):([A-Za-z0-9_.-]+)")


def installed_kernel(reference: str) -> bytes | None:
    """The kernel that `reference` (`SCHEME:NAME`) names, or `None` if it is not of that form, but a path.

    Raises `InvalidPipeline` for an unknown scheme, or what the source raises for an unknown name.
    """
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        return None
    scheme, name = match.groups()
    sources = entry_points(group=GROUP)
    if scheme not in sources.names:
        known = ", ".join(f"{known}:" for known in sorted(sources.names)) or "none"
        raise InvalidPipeline(f"no installed package provides {scheme}: kernels (available: {known})")
    load: Callable[[str], bytes] = sources[scheme].load()
    return load(name)
