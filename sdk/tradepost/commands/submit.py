"""`tradepost submit`: one job from the shell."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import typer

from tradepost.client.results import Result
from tradepost.client.sync_client import Client
from tradepost.commands.inputs import InputTensors, read_inputs
from tradepost.commands.options import ApiKey, BrokerUrl, Json
from tradepost.commands.terminal import show_json, show_text
from tradepost.money import to_microcredits
from tradepost.protocol import Requirements


def submit(
    pipeline: Annotated[str, typer.Argument(help="The pipeline's CID, as `tradepost publish` prints it.")],
    max_price: Annotated[str, typer.Option(help="The price cap in credits, replicas included.")],
    tensor: InputTensors = None,
    document: Annotated[Path | None, typer.Option(help="The complete input as a safetensors file.")] = None,
    confidence: Annotated[
        float, typer.Option(help="The minimum probability that the result is right, 0.5 to 0.999999.")
    ] = 0.95,
    deadline_s: Annotated[float, typer.Option(help="The job's deadline in seconds from now.")] = 300.0,
    patience_s: Annotated[
        float, typer.Option(help="Seconds to wait when no offer could ever run the job.")
    ] = 5.0,
    give_up_s: Annotated[
        float, typer.Option(help="Seconds to retry when the broker cannot be reached.")
    ] = 10.0,
    isolation: Annotated[
        list[str] | None, typer.Option(help="A sandbox layer that workers must have.")
    ] = None,
    inline: Annotated[
        bool | None,
        typer.Option(
            "--inline/--by-cid",
            help="Send the input inside the request, or upload it first. Default: by its size.",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write the output document to this file (safetensors).")
    ] = None,
    receipts: Annotated[
        Path | None, typer.Option(help="Write the signed receipts to this file (JSON).")
    ] = None,
    broker: BrokerUrl = None,
    api_key: ApiKey = None,
    as_json: Json = False,
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
    if as_json:
        show_json(_facts(result))
    else:
        show_text(_for_people(result))


def _facts(result: Result) -> dict[str, Any]:
    return {
        "job": result.job,
        "tensors": {name: tensor.tolist() for name, tensor in result.tensors.items()},
        "metadata": dict(result.metadata),
        "price_microcredits": to_microcredits(result.price),
        "seconds": result.seconds,
        "verification": result.verification,
        "receipts": result.receipts,
    }


def _for_people(result: Result) -> str:
    lines = [f"{name}: {np.array2string(tensor, threshold=32)}" for name, tensor in result.tensors.items()]
    lines += [f"{key}: {text}" for key, text in result.metadata.items()]
    agreed = len(result.verification.agreed)
    lines.append(
        f"Paid {result.price} credits for {agreed} agreeing worker(s), "
        f"credibility {result.verification.credibility:.4f}, in {result.seconds:.2f} s. Job {result.job}."
    )
    return "\n".join(lines)
