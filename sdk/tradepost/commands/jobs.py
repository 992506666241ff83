"""`tradepost jobs`: look at a job, cancel it, or see what a pipeline takes."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from tradepost.client.sync_client import Client
from tradepost.commands.submit import ApiKey, Url
from tradepost.money import format_credits
from tradepost.pipeline.manifest import KernelStage, decode_manifest

app = typer.Typer(help="Look at jobs and at what pipelines take.", no_args_is_help=True)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def show(
    job: Annotated[str, typer.Argument(help="The job's id.")],
    broker: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Show where a job is and what it cost."""
    with Client(broker, api_key=api_key) as client:
        view = client.job(job)
    if as_json:
        typer.echo(msgspec.json.encode(view).decode())
        return
    typer.echo(f"{view.job}: {view.status.value}, {format_credits(view.price_microcredits)} credits")
    if view.problem is not None:
        typer.echo(f"{view.problem.title} {view.problem.detail}\nhint: {view.problem.hint}")


@app.command()
def cancel(
    job: Annotated[str, typer.Argument(help="The job's id.")], broker: Url = None, api_key: ApiKey = None
) -> None:
    """Cancel a job; what was reserved for it is refunded."""
    with Client(broker, api_key=api_key) as client:
        view = client.cancel(job)
    typer.echo(f"{view.job}: {view.status.value}")


@app.command()
def pipeline(
    cid: Annotated[str, typer.Argument(help="The pipeline's CID.")],
    broker: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Show a published pipeline: its inputs, stages, outputs and limits."""
    with Client(broker, api_key=api_key) as client:
        manifest = decode_manifest(client.pipeline(cid).manifest)
    if as_json:
        typer.echo(msgspec.json.encode(manifest).decode())
        return
    typer.echo(f"{manifest.name} {manifest.version}: {manifest.description}")
    for name, spec in manifest.inputs.items():
        typer.echo(f"  input   {name}: {spec}")
    for stage in manifest.stages:
        kind = "kernel" if isinstance(stage, KernelStage) else "model"
        typer.echo(f"  {kind:7} {stage.name}: {stage.artifact}")
    for name, source in manifest.outputs.items():
        typer.echo(f"  output  {name}: {source}")
