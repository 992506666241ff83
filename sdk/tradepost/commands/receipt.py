"""`tradepost receipt`: verify receipts offline, also against the broker's audit log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
import typer

from tradepost.audit_log.proofs import Inclusion, LogProof, verify_proof
from tradepost.client.sync_client import Client
from tradepost.commands.checkpoint_file import read_checkpoint
from tradepost.commands.options import ApiKey, BrokerUrl, Json
from tradepost.commands.output_file import check_writable, write_output
from tradepost.commands.terminal import show, show_text
from tradepost.content import add_file
from tradepost.errors import (
    UNDECODABLE,
    InvalidCommandLine,
    InvalidProof,
    InvalidReceipt,
    TradepostError,
)
from tradepost.receipts import LeaseOutcome, Preempted, Receipt, Returned, SignedReceipt, verify_receipt
from tradepost.schema_errors import describe_mismatch

T = TypeVar("T")

app = typer.Typer(
    help="Verify receipts offline, and prove that the broker logged them.",
    no_args_is_help=True,
    add_completion=False,
)


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="A file of receipts from `tradepost submit --receipts`.")],
    output: Annotated[
        Path | None, typer.Option(help="Require a receipt that commits to this document.")
    ] = None,
    worker: Annotated[str | None, typer.Option(help="Require a receipt by the worker with this id.")] = None,
    proof: Annotated[
        Path | None, typer.Option(help="Require the audit log to have all of them, by this proof.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Require the log to extend this: a kept checkpoint or proof.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Verify the signatures of receipts and what they commit to. Exit with 0 only if all are valid."""
    if checkpoint is not None and proof is None:
        raise InvalidCommandLine("--checkpoint needs --proof")
    signed_receipts = _decode(file, _bytes(file, InvalidReceipt), list[SignedReceipt], InvalidReceipt)
    receipts = [verify_receipt(signed) for signed in signed_receipts]
    if not receipts:
        raise InvalidReceipt(f"{file} contains no receipt")
    if output is not None:
        cid = add_file(output, put=None)
        if not any(isinstance(one.outcome, Returned) and one.outcome.output == cid for one in receipts):
            raise InvalidReceipt(f"no receipt commits to {output} ({cid})")
    if worker is not None and all(one.worker != worker for one in receipts):
        raise InvalidReceipt(f"no receipt is by worker {worker}")
    if proof is None:
        show(receipts, "\n".join(map(_for_people, receipts)), as_json=as_json)
        return
    kept = None if checkpoint is None else read_checkpoint(checkpoint)
    shown = _decode(proof, _bytes(proof, InvalidProof), LogProof, InvalidProof)
    found = verify_proof(shown, signed_receipts, kept=kept)
    lines = [f"{_for_people(one.receipt)}\n    {_place_for_people(one)}" for one in found]
    if kept is not None:
        lines.append("The log extends the checkpoint that was kept.")
    show([_place(one) for one in found], "\n".join(lines), as_json=as_json)


@app.command("proof")
def fetch_proof(
    job: Annotated[str, typer.Argument(help="The id of a job that has ended.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the proof to this file; else print it.")
    ] = None,
    since: Annotated[
        Path | None, typer.Option(help="Prove that the log extends this: a kept checkpoint or proof.")
    ] = None,
    broker: BrokerUrl = None,
    api_key: ApiKey = None,
) -> None:
    """Fetch the proof that the broker's audit log has a job's receipts. Wait up to a minute for it."""
    check_writable(output)
    kept = None if since is None else read_checkpoint(since)
    with Client(broker, api_key=api_key) as client:
        proof = client.proof(job, since=kept)
    text = msgspec.json.format(msgspec.json.encode(proof)).decode()
    if output is None:
        show_text(text)
    else:
        write_output(output, f"{text}\n".encode())


class LoggedReceiptView(msgspec.Struct, frozen=True, kw_only=True):
    """A receipt, and where the log has it: entry `index` (from 0) of `size` that the checkpoint covers."""

    receipt: Receipt
    index: int
    size: int
    signed_by: str


def _place(found: Inclusion) -> LoggedReceiptView:
    return LoggedReceiptView(
        receipt=found.receipt,
        index=found.index,
        size=found.checkpoint.size,
        signed_by=found.checkpoint.broker,
    )


def _place_for_people(found: Inclusion) -> str:
    checkpoint = found.checkpoint
    return f"in the log at {found.index} of {checkpoint.size}, checkpoint signed by {checkpoint.broker}"


def _decode(file: Path, data: bytes, kind: type[T], error: type[TradepostError]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except UNDECODABLE as problem:
        raise error(f"{file}: {describe_mismatch(problem, whole='the file')}") from None


def _bytes(file: Path, error: type[TradepostError]) -> bytes:
    try:
        return file.read_bytes()
    except OSError as problem:
        raise error(f"{file}: {problem.strerror}") from None


def _for_people(receipt: Receipt) -> str:
    said = _outcome_for_people(receipt.outcome)
    return f"ok: worker {receipt.worker} ran job {receipt.job} of {receipt.pipeline}: {said}"


def _outcome_for_people(outcome: LeaseOutcome) -> str:
    if isinstance(outcome, Returned):
        return outcome.output
    return "preempted" if isinstance(outcome, Preempted) else f"{outcome.code} at stage {outcome.stage}"
