"""A corpus of files of many types: samples made here, edge cases, and files of this Python installation.

Run `python examples/filetype/samples.py FOLDER`. It writes the same bytes on each run on one machine.
"""

from __future__ import annotations

import argparse
import os
import random
import sysconfig
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from binary_samples import binary_samples

TEXT_SAMPLES: Final = Path(__file__).parent / "text_samples"
#: Installed files are taken from the commonest suffixes, so many of each, and none larger than this.
SUFFIXES: Final = 40
PER_SUFFIX: Final = 4
BYTES_MAX: Final = 256 << 10


def write_corpus(folder: Path) -> list[Path]:
    """Write the corpus below `folder`; the paths of its files, sorted."""
    for group, files in {
        "text": {path.name: path.read_bytes() for path in sorted(TEXT_SAMPLES.iterdir())},
        "binary": binary_samples(),
        "edge": edge_cases(),
        "installed": {name: path.read_bytes() for name, path in installed_files()},
    }.items():
        (folder / group).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / group / name).write_bytes(content)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def edge_cases() -> dict[str, bytes]:
    """Content at the borders of what the model looks at: nothing, white space, around 4 and 8 KiB."""
    words = ("ebb", "flow", "neap", "spring", "slack", "surge", "swell", "bore")
    chooser = random.Random(5)
    prose = " ".join(chooser.choice(words) for _ in range(4000)).encode()
    source = (TEXT_SAMPLES / "server.go").read_bytes()
    return {
        "empty": b"",
        "seven-bytes": b"ebb\nflo",
        "eight-bytes": b"ebb\nflow",
        "white-space": b" \t\r\n\v\f" * 100,
        "white-space-around-three": b"\n" * 50 + b"ebb" + b"\n" * 50,
        "zeros": bytes(5000),
        "binary-seven": b"\xff\xfe\x00\x01\x02\x03\x04",
        "indented-block": b" " * 5000 + source,
        "trailing-block": source + b"\n" * 5000,
        **{f"prose-{size}": prose[:size] for size in (1023, 1024, 4095, 4096, 4097, 8191, 8192, 8193, 20000)},
    }


def installed_files() -> Iterator[tuple[str, Path]]:
    """A name and the path of some files of each suffix, spread evenly over this Python and its packages."""
    by_suffix: defaultdict[str, list[Path]] = defaultdict(list)
    for path in _walk():
        by_suffix[path.suffix.lower() or path.name].append(path)
    commonest = sorted(by_suffix, key=lambda suffix: (-len(by_suffix[suffix]), suffix))[:SUFFIXES]
    for suffix in sorted(commonest):
        paths = by_suffix[suffix]
        step = max(1, len(paths) // PER_SUFFIX)
        for number, path in enumerate(paths[::step][:PER_SUFFIX]):
            yield f"{suffix.lstrip('.')}-{number}-{path.name}", path


def _walk() -> Iterator[Path]:
    """Regular files of the standard library, its headers and the installed packages, in a fixed order."""
    roots = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platlib", "include")}
    for root in sorted(root for root in roots if root.is_dir()):
        for folder, subfolders, files in os.walk(root):
            subfolders[:] = sorted(name for name in subfolders if name != "__pycache__")
            for name in sorted(files):
                path = Path(folder, name)
                if not path.is_symlink() and 0 < path.stat().st_size <= BYTES_MAX:
                    yield path


def main() -> None:
    """Write the corpus to the folder that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    print(f"{len(write_corpus(folder))} files in {folder}")


if __name__ == "__main__":
    main()
