"""Builds the project's kernels with the pinned Zig toolchain, bit for bit the same on every machine.

    python wasm_kernels/build.py            compile all, write compiled/*.wasm and kernels.lock.json
    python wasm_kernels/build.py --check    compile all, and say what differs from what is committed

The compiler is clang as the PyPI package `ziglang` ships it. It runs in the sources' folder with relative
names and strips its output, so no path of the machine gets in. Its caches go to a temporary folder, which
costs about 20 seconds of compiling wasi-libc each time; set ZIG_GLOBAL_CACHE_DIR to keep one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

SOURCES: Final = Path(__file__).parent / "kernel-sources"
PACKAGE: Final = Path(__file__).parent / "tradepost_kernels"
#: In the package, so that everybody who installs it can compile kernels.
HEADERS: Final = PACKAGE / "include"
ZIGLANG: Final = "0.17.0"
LICENCE: Final = "Apache-2.0"

KERNELS: Final = {
    "bytes_window": "reactor",
    "checksum": "command",
    "crop_rotate": "reactor",
    "ctc_decode": "reactor",
    "delta_filter": "reactor",
    "log_mel": "reactor",
    "nms": "reactor",
    "noop": "reactor",
    "normalize": "reactor",
    "pool_normalize": "reactor",
    "quantize": "reactor",
    "resize": "reactor",
    "sample_stats": "reactor",
    "segments": "reactor",
    "threshold": "reactor",
    "topk": "reactor",
    "wav_decode": "reactor",
    "wordpiece": "reactor",
}
_FLAGS: Final = [
    *("-target", "wasm32-wasi", "-O3", "-msimd128", "-s"),
    *("-std=c17", "-Wall", "-Wextra", "-Werror", "-Wl,-z,stack-size=65536"),
]
_FORM_FLAGS: Final = {"reactor": ["-mexec-model=reactor"], "command": []}


def build(folder: Path, *, sources: Path = SOURCES) -> dict[str, Any]:
    """Compile every kernel into `folder` and give the lock that describes them."""
    if version("ziglang") != ZIGLANG:
        raise SystemExit(f"ziglang is {version('ziglang')}; the kernels are built with {ZIGLANG}")
    with tempfile.TemporaryDirectory(prefix="tradepost-zig-") as cache:
        environment = {"ZIG_GLOBAL_CACHE_DIR": cache} | os.environ | {"ZIG_LOCAL_CACHE_DIR": f"{cache}/local"}
        kernels = {
            name: _build_one(name, form, folder, sources=sources, environment=environment)
            for name, form in KERNELS.items()
        }
    return {"toolchain": f"ziglang {ZIGLANG}", "kernels": kernels}


def _build_one(
    name: str, form: str, folder: Path, *, sources: Path, environment: dict[str, str]
) -> dict[str, Any]:
    target = (folder / f"{name}.wasm").resolve()
    flags = [*_FLAGS, *_FORM_FLAGS[form]]
    command = [
        sys.executable,
        "-m",
        "ziglang",
        "cc",
        *flags,
        f"-I{HEADERS.resolve()}",
        f"{name}.c",
        "-o",
        str(target),
    ]
    subprocess.run(command, cwd=sources, env=environment, check=True)
    target.chmod(0o644)
    wasm = target.read_bytes()
    return {
        "summary": _summary(sources / f"{name}.c"),
        "form": form,
        "sha256": hashlib.sha256(wasm).hexdigest(),
        "bytes": len(wasm),
        "flags": " ".join(flags),
        "sources": {
            file: _sha256(_located(file, sources)) for file in sorted(_sources_of(f"{name}.c", sources))
        },
        "licence": LICENCE,
    }


def _sources_of(file: str, folder: Path) -> set[str]:
    """The file and the headers of ours that it includes, however deep."""
    found = {file}
    for header in re.findall(r'^#include "(.+)"', _located(file, folder).read_text(), flags=re.MULTILINE):
        found |= _sources_of(header, folder)
    return found


def _located(file: str, sources: Path) -> Path:
    return (HEADERS if file.endswith(".h") else sources) / file


def _summary(source: Path) -> str:
    """The first sentence of the comment at the head, after the kernel's name."""
    match = re.match(r"/\* \w+: (.+?)\.\s", source.read_text(), flags=re.DOTALL)
    if match is None:
        raise SystemExit(f"{source} does not begin with /* name: what it does. */")
    return re.sub(r"\s+\*?\s*", " ", match[1])


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def lock_text(lock: dict[str, Any]) -> str:
    """The lock file's bytes."""
    return json.dumps(lock, indent=2) + "\n"


def differences(lock: dict[str, Any], folder: Path) -> list[str]:
    """What differs between a fresh build in `folder` with its `lock` and what is committed."""
    found = [
        f"{name}.wasm"
        for name in KERNELS
        if (folder / f"{name}.wasm").read_bytes() != (PACKAGE / "compiled" / f"{name}.wasm").read_bytes()
    ]
    if lock_text(lock) != (PACKAGE / "kernels.lock.json").read_text():
        found.append("kernels.lock.json")
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Build the kernels.")
    parser.add_argument("--check", action="store_true", help="compare with what is committed; write nothing")
    if parser.parse_args().check:
        with tempfile.TemporaryDirectory() as folder:
            found = differences(build(Path(folder)), Path(folder))
        sys.exit(f"these differ from their sources: {', '.join(found)}" if found else 0)
    (PACKAGE / "compiled").mkdir(exist_ok=True)
    (PACKAGE / "kernels.lock.json").write_text(lock_text(build(PACKAGE / "compiled")))


if __name__ == "__main__":
    main()
