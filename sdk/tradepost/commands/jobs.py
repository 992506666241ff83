"""`tradepost jobs`: estimate and list jobs, show or cancel one, fetch its result, or show a pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated

import typer

from tradepost.client.sync_client import Client
from tradepost.commands.estimate import estimate
from tradepost.commands.job_result import INTERRUPTED, Output, Receipts, check_places, deliver
from tradepost.commands.number_options import integer_option, number_option
from tradepost.commands.options import ApiKey, BrokerUrl, Json
from tradepost.commands.terminal import show as show_view
from tradepost.money import counted_credits
from tradepost.pipeline.manifest import KernelStage, Manifest, decode_manifest
from tradepost.protocol import JobEntry, JobStatus, JobView
from tradepost.protocol.job_bounds import JOBS_SHOWN_MAX

app = typer.Typer(
    help="Estimate, list, show and cancel jobs, fetch results, and show pipelines.",
    no_args_is_help=True,
    add_completion=False,
)
app.command()(estimate)


@app.command("list")
def list_jobs(
    limit: Annotated[
        int, integer_option(low=1, high=JOBS_SHOWN_MAX, about="The number of jobs to show.")
    ] = 20,
    before: Annotated[str | None, typer.Option(help="Show jobs that are older than this job.")] = None,
    changed: Annotated[
        bool, typer.Option("--changed", help="Show only jobs whose first result was withdrawn.")
    ] = False,
    broker: BrokerUrl = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """List the account's jobs, newest first."""
    with Client(broker, api_key=api_key) as client:
        page = client.jobs(limit=limit, before=before, changed=changed)
    lines = [_line(entry) for entry in page.jobs] or ["There are no jobs."]
    if page.older is not None:
        switch = " --changed" if changed else ""
        lines.append(f"Show older jobs: tradepost jobs list{switch} --before {page.older}")
    show_view(page, "\n".join(lines), as_json=as_json)


@app.command()
def result(
    job: Annotated[str, typer.Argument(help="The job's id.")],
    output: Output = None,
    receipts: Receipts = None,
    timeout_s: Annotated[
        float | None,
        number_option(low=0, about="Seconds to wait for the job's end, without limit by default."),
    ] = None,
    broker: BrokerUrl = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Wait for a job's end, check its receipts, and print its result.

    Ctrl-C ends the command; the job goes on.
    """
    check_places(output, receipts)
    with Client(broker, api_key=api_key) as client:
        try:
            found = client.attach(job).result(timeout_s)
        except KeyboardInterrupt:
            typer.echo(f"\nInterrupted. Job {job} is unaffected.", err=True)
            raise typer.Exit(INTERRUPTED) from None
    deliver(found, output, receipts, as_json=as_json)


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
    lines = [_state(view), *_doubts(view)]
    if view.problem is not None:
        lines.append(f"{view.problem.title} {view.problem.detail}\nhint: {view.problem.hint}")
    show_view(view, "\n".join(lines), as_json=as_json)


@app.command()
def cancel(
    job: Annotated[str, typer.Argument(help="The job's id.")],
    broker: BrokerUrl = None,
    api_key: ApiKey = None,
) -> None:
    """Cancel a job; what was not begun is refunded."""
    with Client(broker, api_key=api_key) as client:
        view = client.cancel(job)
    ended = "" if view.status is JobStatus.CANCELLED else " It had ended before, so it was not cancelled."
    typer.echo(f"{_state(view)}.{ended}" if ended else _state(view))


@app.command()
def lift_quarantine(
    pipeline: Annotated[str, typer.Argument(help="The pipeline's CID.")],
    broker: BrokerUrl = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Let jobs on a pipeline run again, after they failed on all workers that tried them."""
    with Client(broker, api_key=api_key) as client:
        view = client.lift_quarantine(pipeline)
    line = "It is still quarantined for all accounts." if view.quarantined else "Its jobs can run again."
    show_view(view, line, as_json=as_json)


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


def _line(entry: JobEntry) -> str:
    price = counted_credits(entry.price_microcredits)
    changed = "" if entry.verdict_changed_at is None else "  first result withdrawn"
    return f"{entry.job}  {_time(entry.submitted_at)}  {entry.status.value:9}  {price}{changed}"


def _doubts(view: JobView) -> Iterator[str]:
    if view.in_doubt_until is not None:
        yield (
            "Its worker was proven to cheat in another job. The result is being checked, until "
            f"{_time(view.in_doubt_until)} at the latest."
        )
    if view.verdict_changed_at is not None and view.status is not JobStatus.WITHDRAWN:
        if view.status.is_open:
            now = "The job runs again."
        elif view.status is JobStatus.ACCEPTED:
            now = "This is another one."
        else:
            now = "It has no other one."
        yield f"Its first result was withdrawn at {_time(view.verdict_changed_at)}. {now}"


def _time(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().isoformat(sep=" ", timespec="seconds")


def _state(view: JobView) -> str:
    return f"{view.job}: {view.status.value}, {counted_credits(view.price_microcredits)}"


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
