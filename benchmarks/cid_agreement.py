"""Do random files and trees get the CID that Kubo gives them, and do CAR files pass between both?

Prints a table; exits 1 if any differs or does not pass. A CAR made here is imported by Kubo, and the one that
Kubo then exports is imported here: of every tree, and of every file up to 4 MB.

    python benchmarks/cid_agreement.py [--files 300] [--trees 50] [--seed 1]

Needs `ipfs` on the path, or TRADEPOST_IPFS. Files have 0 to 50 MB, many of them at and around the sizes where
the shape of their DAG changes; trees are empty, deep, full of odd names, or have 10,000 entries.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from tradepost.content import Cid
from tradepost.content.transfer.car import import_car
from tradepost.content.transfer.export import export_car
from tradepost.content.unixfs.directories import add_path
from tradepost.content.unixfs.files import CHUNK_BYTES, LINKS_PER_NODE
from tradepost.testing.kubo_daemon import KuboDaemon, find_ipfs

FILE_BYTES_MAX = 50_000_000
_EXCHANGED_BYTES_MAX = 4_000_000
_NODE_BYTES = CHUNK_BYTES * LINKS_PER_NODE
_BOUNDARIES = (0, 1, CHUNK_BYTES, 2 * CHUNK_BYTES, 10 * CHUNK_BYTES, _NODE_BYTES, _NODE_BYTES + CHUNK_BYTES)
_ALPHABETS = ("abc012", "äöüß", "雪桜山", "🦀🐍", "a .-_", "\u202e\u200d~")


def main() -> int:
    """Compare, print, and say whether all agree."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=300)
    parser.add_argument("--trees", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    ipfs = find_ipfs()
    if ipfs is None:
        print("no `ipfs` on the path, and TRADEPOST_IPFS names none: nothing to compare with")
        return 1
    seen: Counter[str] = Counter()
    agreed: Counter[str] = Counter()
    sent: Counter[str] = Counter()
    passed: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        kubo = KuboDaemon(ipfs, Path(folder) / "repository")
        kubo.init()
        for kind, make in subjects(options.files, options.trees, random.Random(options.seed)):
            with tempfile.TemporaryDirectory(dir=folder) as one:
                path = Path(one) / "subject"
                make(path)
                seen[kind] += 1
                agreed[kind] += agree(kubo, path)
                if path.is_dir() or path.stat().st_size <= _EXCHANGED_BYTES_MAX:
                    sent[kind] += 1
                    passed[kind] += exchange(kubo, path, Path(one) / "made-here.car")
    print(f"seed {options.seed}, {kubo.run('version').decode().strip()}")
    print(f"{'':<40}{'compared':>10}{'equal':>10}{'CARs':>10}{'passed':>10}")
    for kind in seen:
        print(f"{kind:<40}{seen[kind]:>10}{agreed[kind]:>10}{sent[kind]:>10}{passed[kind]:>10}")
    print(f"{'all':<40}{seen.total():>10}{agreed.total():>10}{sent.total():>10}{passed.total():>10}")
    return 0 if seen == agreed and sent == passed else 1


def agree(kubo: KuboDaemon, path: Path) -> bool:
    """Whether both give `path` the same CID, with hidden entries and without."""
    for hidden in (False, True):
        options = ["-H"] if hidden else []
        theirs = kubo.run("add", "-rQn", "--cid-version=1", *options, str(path)).decode().strip()
        ours = add_path(path, put=None, hidden=hidden)
        if ours != theirs:
            print(f"{path}: {ours} here, {theirs} by Kubo")
            return False
        if not path.is_dir():
            break
    return True


def exchange(kubo: KuboDaemon, path: Path, car: Path) -> bool:
    """Whether Kubo imports a CAR of `path` made here, and what it exports then is the same DAG here."""
    blocks: dict[Cid, bytes] = {}
    root = add_path(path, put=blocks.__setitem__, hidden=True)

    async def made_here() -> bytes:
        async def get(cid: Cid) -> bytes:
            return blocks[cid]

        return b"".join([piece async for piece in export_car(root, (), get)])

    car.write_bytes(asyncio.run(made_here()))
    kubo.run("dag", "import", str(car))
    made_there = kubo.run("dag", "export", root)
    again: dict[Cid, bytes] = {}
    imported = import_car(io.BytesIO(made_there), put=again.__setitem__, bytes_max=len(made_there))
    return imported.roots == (root,) and again == blocks


Make = Callable[[Path], None]


def subjects(files: int, trees: int, chance: random.Random) -> Iterator[tuple[str, Make]]:
    """What to compare: what kind it is, and what makes it at a path."""
    for number in range(files):
        if number % 2:
            size = max(0, chance.choice(_BOUNDARIES) + chance.choice((-2, -1, 0, 1, 2)))
            yield "files at and around a boundary", file_of(size, chance)
        else:
            yield "files of any size", file_of(int(FILE_BYTES_MAX * chance.random() ** 4), chance)
    kinds: list[tuple[str, Make]] = [
        ("trees with odd names", lambda path: odd_tree(path, chance)),
        ("deep trees", lambda path: deep_tree(path, chance)),
        ("directories without files", lambda path: empty_tree(path, chance)),
        ("directories around the sharding size", lambda path: wide(path, chance.randint(6385, 6400), chance)),
        ("directories of 10,000 entries", lambda path: wide(path, 10_000, chance)),
    ]
    weights = (5, 2, 1, 1, 1)
    cycle = [kind for kind, weight in zip(kinds, weights, strict=True) for _ in range(weight)]
    for number in range(trees):
        yield cycle[number % len(cycle)]


def file_of(size: int, chance: random.Random) -> Make:
    """Makes a file of random bytes."""

    def make(path: Path) -> None:
        path.write_bytes(chance.randbytes(size))

    return make


def odd_tree(path: Path, chance: random.Random) -> None:
    """Directories, files, links and hidden entries, with names from many alphabets."""
    path.mkdir()
    places = [path]
    for _ in range(chance.randint(1, 60)):
        name = "".join(chance.choices(chance.choice(_ALPHABETS), k=chance.randint(1, 12)))
        place = chance.choice(places) / (chance.choice(("", "", "", ".")) + name)
        if place.name in ("", ".", "..") or place.exists() or place.is_symlink():
            continue
        kind = chance.random()
        if kind < 0.3:
            place.mkdir()
            places.append(place)
        elif kind < 0.4:
            place.symlink_to(chance.choice(("elsewhere", "../up", "/etc/passwd", name)))
        else:
            place.write_bytes(chance.randbytes(int(600_000 * chance.random() ** 6)))


def deep_tree(path: Path, chance: random.Random) -> None:
    """One directory in another, many times."""
    place = path
    for _ in range(chance.randint(20, 200)):
        place /= chance.choice("abé")
    place.mkdir(parents=True)
    (place / "leaf").write_bytes(chance.randbytes(10))


def empty_tree(path: Path, chance: random.Random) -> None:
    """No directories in it, or some, hidden ones among them."""
    path.mkdir()
    places = [path]
    for number in range(chance.randint(0, 8)):
        places.append(chance.choice(places) / f"{chance.choice(('', '.'))}{number}")
        places[-1].mkdir()


def wide(path: Path, count: int, chance: random.Random) -> None:
    """One directory of many small files, whose names have five characters."""
    path.mkdir()
    for number in chance.sample(range(36**4), count):
        name = f"{chance.choice('abé_雪')}{np.base_repr(number, 36):0>4}"
        (path / name).write_bytes(chance.randbytes(chance.randint(0, 3)))


if __name__ == "__main__":
    sys.exit(main())
