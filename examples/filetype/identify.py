"""Identify every file in a folder through a market: one job a file, its label and score in a table.

Run `python examples/filetype/identify.py FOLDER`. It starts a market on this machine and publishes the
pipeline there; with `--broker URL --pipeline CID` (and the key in TRADEPOST_API_KEY) it uses a
market that stands already, and needs no more than the SDK.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from tradepost import Client, TradepostError
from tradepost.testing import LocalMarket

#: The model looks at no more than this many bytes from either end of a file.
BLOCK_BYTES: Final = 4096
#: It was made for files with at least this many bytes after leading white space.
CONTENT_BYTES_MIN: Final = 8


@dataclass(frozen=True)
class Identification:
    """What the model said of one file. `price` is in credits; `score` is a probability.

    With `enough` false there was too little content to tell: the label is what the model makes of padding.
    """

    path: str
    label: str
    score: float
    price: str
    enough: bool


def read_ends(file: BinaryIO) -> bytes:
    """What the pipeline needs of a file: all of it, or the first and last block of one that is longer.

    The window that the first kernel cuts is the same for both, so a job's input stays under 9 KiB.
    """
    start = file.read(2 * BLOCK_BYTES + 1)
    if len(start) <= 2 * BLOCK_BYTES:
        return start
    file.seek(-BLOCK_BYTES, io.SEEK_END)
    return start[:BLOCK_BYTES] + file.read(BLOCK_BYTES)


def identify(
    client: Client, pipeline: str, folder: Path, paths: list[Path], *, max_price: str, confidence: float
) -> Iterator[Identification]:
    """What each of `paths` is, in order, as results arrive. Raises what the first failing job ended with."""
    enough: list[bool] = []

    def inputs() -> Iterator[dict[str, np.ndarray]]:
        for path in paths:
            with path.open("rb") as file:
                ends = read_ends(file)
            enough.append(len(ends[:BLOCK_BYTES].lstrip()) >= CONTENT_BYTES_MIN)
            yield {"bytes": np.frombuffer(ends, np.uint8)}

    results = client.map(pipeline, inputs(), max_price=max_price, confidence=confidence)
    for number, (path, result) in enumerate(zip(paths, results, strict=True)):
        yield Identification(
            path=str(path.relative_to(folder)),
            label=result.metadata["labels"].split("\n")[0],
            score=float(result["score"][0, 0]),
            price=str(result.price),
            enough=enough[number],
        )


def files_in(folder: Path) -> list[Path]:
    """The regular files below `folder` that may be read, sorted."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sorted(path for path in files if os.access(path, os.R_OK))


@contextmanager
def open_market(broker: str | None, pipeline: str | None, *, workers: int) -> Iterator[tuple[Client, str]]:
    """A client, and the CID of the filetype pipeline: of the market named, or of one started for this."""
    if broker is not None and pipeline is not None:
        with Client(broker) as client:
            yield client, pipeline
        return
    from make_pipeline import make_pipeline  # only a publisher needs magika

    with (
        tempfile.TemporaryDirectory() as folder,
        LocalMarket(workers=workers) as market,
        Client(market.url, api_key=market.api_key) as client,
    ):
        yield client, market.publish(make_pipeline(Path(folder)))


def show(found: Iterable[Identification]) -> None:
    """Print a table of what was found."""
    table = Table("file", "label", "score")
    for one in found:
        score = f"{one.score:.3f}" if one.enough else "too short to tell"
        table.add_row(one.path, one.label, score, style=None if one.enough else "dim")
    Console().print(table)


def main() -> None:
    """Identify the files of the folder that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--broker", help="the URL of a market that stands already")
    parser.add_argument("--pipeline", help="the CID of the filetype pipeline there")
    parser.add_argument("--workers", type=int, default=3, help="workers to start (default: %(default)s)")
    parser.add_argument("--max-price", default="0.02", help="credits for one file (default: %(default)s)")
    parser.add_argument("--confidence", type=float, default=0.95, help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    if (arguments.broker is None) != (arguments.pipeline is None):
        parser.error("give both --broker and --pipeline, or neither")

    folder: Path = arguments.folder
    paths = files_in(folder)
    try:
        with open_market(arguments.broker, arguments.pipeline, workers=arguments.workers) as (client, cid):
            found = identify(
                client,
                cid,
                folder,
                paths,
                max_price=arguments.max_price,
                confidence=arguments.confidence,
            )
            progress = Console(stderr=True)
            every = list(track(found, total=len(paths), description="Identifying", console=progress))
    except TradepostError as error:
        print(error.diagnostics(), file=sys.stderr)
        sys.exit(error.exit_code)
    if arguments.json:
        print(json.dumps([asdict(one) for one in every], indent=2))
    else:
        show(every)


if __name__ == "__main__":
    main()
