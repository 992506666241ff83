"""A job's result as commands show it, and what they do when they are interrupted while they wait for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import numpy as np
import typer

from tradepost.client.results import Result
from tradepost.client.sync_client import JobHandle
from tradepost.commands.output_file import check_writable, write_output
from tradepost.commands.terminal import show_json, show_text
from tradepost.errors import FileNotWritten, JobCancelled, TradepostError
from tradepost.money import to_microcredits, with_unit
from tradepost.plurals import counted

Output = Annotated[
    Path | None, typer.Option("--output", help="Write the output document to this file (safetensors).")
]
Receipts = Annotated[
    Path | None, typer.Option("--receipts", help="Write the signed receipts to this file (JSON).")
]
#: The exit code of a command that Ctrl-C ended, as shells have it: 128 and the number of SIGINT.
INTERRUPTED: Final = 130


def check_places(output: Path | None, receipts: Path | None) -> None:
    """Raise `FileNotWritten` if one of the files could not be written, before anything is paid for."""
    if output is not None and receipts is not None and output.absolute() == receipts.absolute():
        raise FileNotWritten(f"{output}: --output and --receipts name the same file", hint="Name two files.")
    check_writable(output)
    check_writable(receipts)


def deliver(result: Result, output: Path | None, receipts: Path | None, *, as_json: bool) -> None:
    """Write the files and print the result. Raises `FileNotWritten`, which names the command to try again."""
    hint = f"The result is kept for now. Get it again: `tradepost jobs result {result.job} --output FILE`"
    write_output(output, result.document, hint=hint)
    write_output(receipts, msgspec.json.format(msgspec.json.encode(result.receipts)), hint=hint)
    if as_json:
        show_json(_facts(result))
    else:
        show_text(_for_people(result))


@contextmanager
def cancelling(job: JobHandle) -> Iterator[None]:
    """Cancel the job if Ctrl-C comes while the command waits for it, and print what became of it."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"\nInterrupted. Cancelling job {job.id}", err=True)
        try:
            outcome = _cancelled(job)
        except (TradepostError, KeyboardInterrupt):
            outcome = (
                f"The broker has not confirmed it. Show the job: tradepost jobs show {job.id}\n"
                f"Cancel it: tradepost jobs cancel {job.id}"
            )
        typer.echo(outcome, err=True)
        raise typer.Exit(INTERRUPTED) from None


def _cancelled(job: JobHandle) -> str:
    if job.cancel():
        try:
            job.future().result()
        except JobCancelled as error:
            return f"It is cancelled, and {error.payment()}."
    return f"It had ended already. Get its result: tradepost jobs result {job.id}"


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
        f"Paid {with_unit(result.price)} for {counted(agreed, 'agreeing worker')}, "
        f"credibility {result.verification.credibility:.4f}, in {result.seconds:.2f} s. Job {result.job}."
    )
    return "\n".join(lines)
