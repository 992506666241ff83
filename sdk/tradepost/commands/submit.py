"""`tradepost submit`: one job from the shell."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import typer

from tradepost.client.results import Result
from tradepost.client.sync_client import Client
from tradepost.errors import InvalidInput
from tradepost.pipeline.tensors import TensorDocument
from tradepost.protocol import Requirements

Url = Annotated[
    str | None, typer.Option("--broker", envvar="TRADEPOST_URL", help="The broker's URL.", show_default=False)
]
ApiKey = Annotated[
    str | None,
    typer.Option(envvar="TRADEPOST_API_KEY", help="The account's API key; better set in the environment."),
]


def submit(
    pipeline: Annotated[str, typer.Argument(help="The pipeline's CID, as `tradepost publish` prints it.")],
    max_price: Annotated[str, typer.Option(help="The most to pay, in credits, replicas included.")],
    tensor: Annotated[
        list[str] | None, typer.Option(help="An input as NAME=FILE: a .npy array, or any file as bytes (U8).")
    ] = None,
    document: Annotated[Path | None, typer.Option(help="The whole input as a safetensors file.")] = None,
    confidence: Annotated[float, typer.Option(help="How sure the result must be, 0.5 to 0.999999.")] = 0.95,
    deadline_s: Annotated[float, typer.Option(help="Give up after this many seconds.")] = 300.0,
    patience_s: Annotated[float, typer.Option(help="Wait this long when no offer could take the job.")] = 5.0,
    give_up_s: Annotated[float, typer.Option(help="Give up after this long without a broker.")] = 10.0,
    isolation: Annotated[
        list[str] | None, typer.Option(help="A sandbox layer that workers must have.")
    ] = None,
    inline: Annotated[
        bool | None,
        typer.Option("--inline/--by-cid", help="Send the input inside the request, or upload it first."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write the output document here (safetensors).")] = None,
    receipts: Annotated[Path | None, typer.Option(help="Write the signed receipts here (JSON).")] = None,
    broker: Url = None,
    api_key: ApiKey = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Run one job on other people's devices and print its verified result.

    Example: tradepost submit CID --tensor bytes=photo.bin --max-price 0.01
    """
    inputs = read_inputs(tensor or [], document)
    with Client(broker, api_key=api_key, give_up_s=give_up_s) as client:
        job = client.submit(
            pipeline,
            inputs,
            max_price=max_price,
            confidence=confidence,
            deadline_s=deadline_s,
            patience_s=patience_s,
            requirements=Requirements(isolation=tuple(isolation or ())),
            inline=inline,
        )
        result = job.result()
    if output is not None:
        output.write_bytes(result.document)
    if receipts is not None:
        receipts.write_bytes(msgspec.json.format(msgspec.json.encode(result.receipts)))
    typer.echo(_as_json(result) if as_json else _for_people(result))


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
            named[name] = _read_tensor(Path(path))
    except (OSError, ValueError) as error:
        raise InvalidInput(str(error)) from None
    return TensorDocument(tensors=named)


def _read_tensor(path: Path) -> Any:
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    return np.frombuffer(path.read_bytes(), dtype=np.uint8)


def _as_json(result: Result) -> str:
    view = {
        "job": result.job,
        "tensors": {name: tensor.tolist() for name, tensor in result.tensors.items()},
        "metadata": dict(result.metadata),
        "price_credits": str(result.price),
        "seconds": result.seconds,
        "verification": result.verification,
        "receipts": result.receipts,
    }
    return msgspec.json.encode(view).decode()


def _for_people(result: Result) -> str:
    lines = [f"{name}: {np.array2string(tensor, threshold=32)}" for name, tensor in result.tensors.items()]
    lines += [f"{key}: {text}" for key, text in result.metadata.items()]
    agreed = len(result.verification.agreed)
    lines.append(
        f"Paid {result.price} credits for {agreed} agreeing worker(s), "
        f"{result.verification.credibility:.4f} credible, in {result.seconds:.2f} s. Job {result.job}."
    )
    return "\n".join(lines)
