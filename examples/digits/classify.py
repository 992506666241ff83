"""Classify held-out digits through a market, one job each, and compare with what their writers meant.

Run `python examples/digits/classify.py`. It starts a broker and three workers on this machine; with
`--broker URL --pipeline CID` (and the key in TRADEPOST_API_KEY) it uses a market that stands already.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from typing import Final

from tradepost import Client
from tradepost.pipeline.tensors import TensorDocument, decode
from tradepost.testing import LocalMarket

#: What one digit may cost, in credits, with every replica that its confidence needs.
MAX_PRICE: Final = "0.02"
CONFIDENCE: Final = 0.95
_SHADES: Final = " .:-=+*#%@"


def main() -> None:
    """Classify as many digits as the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=8, help="how many digits (default: %(default)s)")
    parser.add_argument("--broker", help="the URL of a market that stands already")
    parser.add_argument("--pipeline", help="the CID of the digits pipeline there")
    arguments = parser.parse_args()
    if (arguments.broker is None) != (arguments.pipeline is None):
        parser.error("give both --broker and --pipeline, or neither")

    with open_market(arguments.broker, arguments.pipeline) as (client, pipeline):
        digits = held_out()
        images, meant = digits["images"][: arguments.count], digits["labels"][: arguments.count]
        jobs = ({"image": image} for image in images)
        results = client.map(pipeline, jobs, max_price=MAX_PRICE, confidence=CONFIDENCE)
        for image, truth, result in zip(images, meant, results, strict=True):
            print(
                "\n".join("".join(_SHADES[pixel * 9 // 255] * 2 for pixel in row) for row in image.tolist())
            )
            labels = result.metadata["labels"].split("\n")
            guesses = ", ".join(
                f"{label} ({score:.1%})" for label, score in zip(labels, result["score"][0], strict=True)
            )
            print(f"said {guesses}; meant {truth}; paid {result.price} credits\n")


def held_out() -> TensorDocument:
    """The digits that the model never saw: `images` U8 [N, 8, 8] and `labels` U8 [N]."""
    return decode((files("tradepost.demo") / "data" / "held_out.safetensors").read_bytes())


@contextmanager
def open_market(broker: str | None, pipeline: str | None) -> Iterator[tuple[Client, str]]:
    """A client, and the CID of the digits pipeline: of the market named, or of one started for this."""
    if broker is not None and pipeline is not None:
        with Client(broker) as client:
            yield client, pipeline
        return
    with (
        LocalMarket(workers=3) as market,
        as_file(files("tradepost.demo") / "data") as data,
        Client(market.url, api_key=market.api_key) as client,
    ):
        yield client, market.publish(data / "pipeline.toml")


if __name__ == "__main__":
    main()
