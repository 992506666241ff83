"""Commands that read the broker's database themselves. The broker may be running meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tradepost.commands.checkpoint_file import read_checkpoint
from tradepost.commands.options import Json
from tradepost.commands.terminal import show, show_json
from tradepost.errors import DatabaseDamaged
from tradepost.identity import Identity
from tradepost.money import to_credits
from tradepost.plurals import counted
from tradepost_broker.commands.collusion_table import collusion_table
from tradepost_broker.commands.options import Config, DataDir, load_settings
from tradepost_broker.commands.tables import show_table
from tradepost_broker.settings import Settings

if TYPE_CHECKING:
    from tradepost_broker.storage.differences import Differences
    from tradepost_broker.storage.store import Reader


def collusion(data_dir: DataDir = None, config: Config = None, as_json: Json = False) -> None:
    """Show owners that gave the same wrong results more often than chance explains. It is no proof."""
    from tradepost_broker.market.model.entities import CollusionFinding

    with _snapshot(load_settings(data_dir, config)) as reader:
        findings = list(reader.find_readable(CollusionFinding))
    if as_json:
        show_json(findings)
    else:
        show_table(collusion_table(findings))


def verify(data_dir: DataDir = None, config: Config = None, as_json: Json = False) -> None:
    """Recompute every balance, replay the journal, and compare. The broker may be running."""
    from tradepost_broker.storage.verify_books import verify_books

    settings = load_settings(data_dir, config)
    with _snapshot(settings) as reader:
        _require_starts(settings, reader)
        public_key = _public_key(settings)
        report = verify_books(reader, public_key=public_key)
    compared = ", ".join(f"{count} {kind}" for kind, count in report.compared.items())
    logged = counted(report.logged, "entry of the audit log fits", "entries of the audit log fit")
    people = (
        f"{counted(report.transfers, 'transfer')} give every balance; the sum is "
        f"{to_credits(report.total_microcredits):,f} credits.\n"
        f"{counted(report.events, 'event')}, over {counted(report.starts, 'start')}, replayed to the same "
        f"records: {compared}.\n"
        f"{logged} the records."
    )
    if public_key is None:
        people += " Their checkpoints were not verified: the folder has no identity.pem."
    if report.differences_count:
        show(report, "\n".join(report.differences), as_json=as_json)
        raise _damaged("the ledger and the records", report)
    show(report, people, as_json=as_json)


def verify_audit_log(
    checkpoints: Annotated[
        list[Path] | None,
        typer.Option("--checkpoint", help="The log must begin with this: a kept checkpoint or proof."),
    ] = None,
    data_dir: DataDir = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Hash every record again and compare with the audit log. The broker may be running."""
    from tradepost_broker.storage.verify_log import verify_log

    settings = load_settings(data_dir, config)
    kept = [read_checkpoint(path) for path in checkpoints or []]
    with _snapshot(settings) as reader:
        _require_starts(settings, reader)
        report = verify_log(reader, public_key=_broker(settings).public_key, kept=kept)
    if report.differences_count:
        show(report, "\n".join(report.differences), as_json=as_json)
        raise _damaged("the audit log and the records", report)
    counts = ", ".join(f"{count} {kind}" for kind, count in report.entries.items())
    signed = (
        "There is no checkpoint yet."
        if report.checkpoint_size is None
        else f"The newest checkpoint is of the first {report.checkpoint_size}, and signed by this broker."
    )
    people = f"{report.size} entries fit their records: {counts}.\n{signed}"
    show(report, people, as_json=as_json)


def _damaged(what: str, report: Differences) -> DatabaseDamaged:
    from tradepost_broker.storage.database_checks import RESTORE

    differ = counted(report.differences_count, "place", "places")
    return DatabaseDamaged(f"{what} differ in {differ}; the first: {report.differences[0]}", hint=RESTORE)


@contextlib.contextmanager
def _snapshot(settings: Settings) -> Iterator[Reader]:
    """A reader of the database as it is now."""
    from tradepost_broker.storage import database
    from tradepost_broker.storage.database_checks import typed_errors
    from tradepost_broker.storage.store import Reader

    path = settings.database_path
    with typed_errors(path), contextlib.closing(Reader(database.open_snapshot(path))) as reader:
        yield reader


def _require_starts(settings: Settings, reader: Reader) -> None:
    from tradepost_broker.storage.database_checks import require_starts

    require_starts(settings.database_path, len(reader.starts()))


def _public_key(settings: Settings) -> bytes | None:
    """The broker's public key (DER); `None` if the data folder has no key, as beside a copied database."""
    from tradepost_broker.storage.data_folder import IDENTITY_FILE

    return _broker(settings).public_key if (settings.data_dir / IDENTITY_FILE).exists() else None


def _broker(settings: Settings) -> Identity:
    from tradepost_broker.storage.data_folder import IDENTITY_FILE

    return Identity.load(settings.data_dir / IDENTITY_FILE)
