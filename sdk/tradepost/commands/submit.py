"""`tradepost submit`: one job from the shell."""

from __future__ import annotations

from typing import Annotated

import typer

from tradepost.client.sync_client import Client
from tradepost.commands.inputs import InputDocument, InputTensors, read_inputs
from tradepost.commands.job_options import (
    Confidence,
    DeadlineS,
    Engine,
    Isolation,
    NotOwner,
    Owner,
    Pipeline,
    Provider,
    ScoreMin,
    requirements_of,
)
from tradepost.commands.job_result import INTERRUPTED, Output, Receipts, cancelling, check_places, deliver
from tradepost.commands.number_options import number_option
from tradepost.commands.options import ApiKey, BrokerUrl, Json
from tradepost.protocol import OnWrong
from tradepost.protocol.job_bounds import CONFIDENCE, DEADLINE_S, PATIENCE_S, SECONDS_MAX


def submit(
    pipeline: Pipeline,
    max_price: Annotated[str, typer.Option(help="The price cap in credits, replicas included.")],
    tensor: InputTensors = None,
    document: InputDocument = None,
    confidence: Confidence = CONFIDENCE,
    deadline_s: DeadlineS = DEADLINE_S,
    patience_s: Annotated[
        float, number_option(about="Seconds to wait when no offer could ever run the job.", high=SECONDS_MAX)
    ] = PATIENCE_S,
    give_up_s: Annotated[
        float, number_option(about="Seconds to retry when the broker cannot be reached.")
    ] = 10.0,
    isolation: Isolation = None,
    provider: Provider = None,
    engine: Engine = None,
    score_min: ScoreMin = 0.0,
    owner: Owner = None,
    not_owner: NotOwner = None,
    prefer: Annotated[
        str | None, typer.Option(help="What weighs most: price, latency, locality (cached) or load.")
    ] = None,
    inline: Annotated[
        bool | None,
        typer.Option(
            "--inline/--by-cid",
            help="Send the input inside the request, or upload it first. Default: by its size.",
        ),
    ] = None,
    on_wrong: Annotated[
        OnWrong,
        typer.Option(
            help="What to do if the result is found wrong later: get another one, or only the refund."
        ),
    ] = OnWrong.REDO,
    output: Output = None,
    receipts: Receipts = None,
    broker: BrokerUrl = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Run one job on other people's devices and print its verified result.

    Example: tradepost submit CID --tensor bytes=photo.bin --max-price 0.01
    """
    check_places(output, receipts)
    required = requirements_of(isolation, provider, engine, score_min, owner, not_owner)
    inputs = read_inputs(tensor or [], document)
    try:
        with Client(broker, api_key=api_key, give_up_s=give_up_s) as client:
            job = client.submit(
                pipeline,
                inputs,
                max_price=max_price,
                confidence=confidence,
                deadline_s=deadline_s,
                patience_s=patience_s,
                requirements=required,
                preference=prefer,
                inline=inline,
                on_wrong=on_wrong,
            )
            with cancelling(job):
                if not as_json:  # where stderr has nothing but an error, as JSON
                    typer.echo(f"Job {job.id} is submitted.", err=True)
                result = job.result()
    except KeyboardInterrupt:
        # The client cancels the job of a call that is interrupted, if the broker is there to hear it.
        typer.echo("\nInterrupted. List jobs that may be running: tradepost jobs list", err=True)
        raise typer.Exit(INTERRUPTED) from None
    deliver(result, output, receipts, as_json=as_json)
