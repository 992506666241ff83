"""`tradepost receipt`: verify receipts offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from tradepost.commands.options import Json
from tradepost.commands.terminal import show
from tradepost.content import add_file
from tradepost.errors import UNDECODABLE, InvalidReceipt
from tradepost.receipts import LeaseOutcome, Preempted, Receipt, Returned, SignedReceipt, verify_receipt
from tradepost.schema_errors import describe_mismatch

app = typer.Typer(help="Verify receipts offline.", no_args_is_help=True, add_completion=False)


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="A file of receipts from `tradepost submit --receipts`.")],
    output: Annotated[
        Path | None, typer.Option(help="Require a receipt that commits to this document.")
    ] = None,
    worker: Annotated[str | None, typer.Option(help="Require a receipt by the worker with this id.")] = None,
    as_json: Json = False,
) -> None:
    """Verify the signatures of receipts and what they commit to. Exit with 0 only if all are valid."""
    receipts = [verify_receipt(signed) for signed in _read(file)]
    if not receipts:
        raise InvalidReceipt(f"{file} contains no receipt")
    if output is not None:
        cid = add_file(output, put=None)
        if not any(isinstance(one.outcome, Returned) and one.outcome.output == cid for one in receipts):
            raise InvalidReceipt(f"no receipt commits to {output} ({cid})")
    if worker is not None and all(one.worker != worker for one in receipts):
        raise InvalidReceipt(f"no receipt is by worker {worker}")
    show(receipts, "\n".join(map(_for_people, receipts)), as_json=as_json)


@app.callback()
def _group() -> None:
    """Keep `verify` a subcommand although it is the only one."""


def _read(file: Path) -> list[SignedReceipt]:
    try:
        return msgspec.json.decode(file.read_bytes(), type=list[SignedReceipt])
    except OSError as error:
        raise InvalidReceipt(f"{file}: {error.strerror}") from None
    except UNDECODABLE as error:
        raise InvalidReceipt(f"{file}: {describe_mismatch(error, whole='the file')}") from None


def _for_people(receipt: Receipt) -> str:
    said = _outcome_for_people(receipt.outcome)
    return f"ok: worker {receipt.worker} ran job {receipt.job} of {receipt.pipeline}: {said}"


def _outcome_for_people(outcome: LeaseOutcome) -> str:
    if isinstance(outcome, Returned):
        return outcome.output
    return "preempted" if isinstance(outcome, Preempted) else f"{outcome.code} at stage {outcome.stage}"
