"""`tradepost jobs`: show a job, cancel it, or show a pipeline's inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from tradepost.client.sync_client import Client
from tradepost.commands.options import ApiKey, BrokerUrl, Json
from tradepost.commands.terminal import show as show_view
from tradepost.money import format_credits
from tradepost.pipeline.manifest import KernelStage, Manifest, decode_manifest

app = typer.Typer(
    help="Show jobs, and the inputs and outputs of pipelines.", no_args_is_help=True, add_completion=False
)


@app.command()
def show(
    job: Annotated[str, typer.Argument(help="The job's id.")],
    broker: BrokerUrl = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Show the status and the price of a job."""
    with Client(broker, api_key=api_key) as client:
        view = client.job(job)
    lines = [f"{view.job}: {view.status.value}, {format_credits(view.price_microcredits)} credits"]
    if view.problem is not None:
        lines.append(f"{view.problem.title} {view.problem.detail}\nhint: {view.problem.hint}")
    show_view(view, "\n".join(lines), as_json=as_json)


@app.command()
def cancel(
    job: Annotated[str, typer.Argument(help="The job's id.")],
    broker: BrokerUrl = None,
    api_key: ApiKey = None,
) -> None:
    """Cancel a job; its reserved credits are refunded."""
    with Client(broker, api_key=api_key) as client:
        view = client.cancel(job)
    typer.echo(f"{view.job}: {view.status.value}")


@app.command()
def pipeline(
    cid: Annotated[str, typer.Argument(help="The pipeline's CID.")],
    broker: BrokerUrl = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Show a published pipeline: its inputs, stages, outputs and limits."""
    with Client(broker, api_key=api_key) as client:
        manifest = decode_manifest(client.pipeline(cid).manifest)
    show_view(manifest, "\n".join(describe_pipeline(manifest)), as_json=as_json)


def describe_pipeline(manifest: Manifest) -> Iterator[str]:
    """A pipeline for people, line by line."""
    yield f"{manifest.name} {manifest.version}: {manifest.description}"
    for name, spec in manifest.inputs.items():
        yield f"  input   {name}: {spec}"
    for stage in manifest.stages:
        kind = "kernel" if isinstance(stage, KernelStage) else "model"
        fuel = f", {stage.fuel:,} fuel" if isinstance(stage, KernelStage) else ""
        yield f"  {kind:7} {stage.name}: {stage.artifact} ({stage.memory_bytes:,} bytes of memory{fuel})"
    for name, source in manifest.outputs.items():
        yield f"  output  {name}: {source}"
    limits = manifest.limits
    yield (
        f"  limits  {limits.wall_ms / 1000:g} s, an input of {limits.input_bytes:,} bytes, "
        f"an output of {limits.output_bytes:,} bytes"
    )
