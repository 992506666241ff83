"""Verifies what the shell keeps beside the market: join tokens that were used, publications, and uploads.

What follows from the journal is compared with it. The rest cannot be recomputed, and docs/audit-log.md lists
it: which blocks somebody uploaded and when, and the bytes of a pipeline's signatures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from tradepost.content import cid_of_block
from tradepost.errors import TradepostError
from tradepost.pipeline.manifest import decode_manifest
from tradepost_broker.market.model.entities import Lease, Pipeline
from tradepost_broker.market.model.events import Event, WorkerJoined
from tradepost_broker.storage.differences import Differences
from tradepost_broker.storage.rows import CODECS
from tradepost_broker.storage.shell_records import (
    ApiKey,
    JoinToken,
    Publication,
    PublishedCheckpoint,
    SetAside,
    Upload,
)
from tradepost_broker.storage.store import Reader
from tradepost_signing.checks.verify import claimed_signatures

_ACCOUNT: Final = "account"
_LEASE: Final = "lease"

#: By kind of record, what the journal's replay gives, by id.
Replayed = Mapping[type[Any], Mapping[str, Any]]


class JoinsOfTheJournal:
    """The joins in a journal, by the token that they used; collected while it is replayed."""

    def __init__(self) -> None:
        self._by_token: dict[str, WorkerJoined] = {}
        #: Joins from before events named their token.
        self._unnamed: set[tuple[str, str, int, bool]] = set()

    def observe(self, event: Event) -> None:
        """Note an event if it is a join."""
        if isinstance(event, WorkerJoined):
            if event.token:
                self._by_token[event.token] = event
            else:
                self._unnamed.add(_facts(event.worker, event))

    def check(self, reader: Reader, report: Differences) -> None:
        """Compare the tokens that were used with the joins: each has one, of its owner and with its stake."""
        joins = dict(self._by_token)
        for token in _readable(reader, JoinToken, report):
            join = joins.pop(token.id, None)
            known = self._unnamed if join is None else {_facts(join.worker, join)}
            user = f"worker {token.used_by} has used it" if token.used_by else "nobody has used it"
            if join is not None and token.used_by != join.worker:
                report.differs(f"join_token {token.id}: {user}; in the journal, worker {join.worker} has")
            elif token.used_by and _facts(token.used_by, token) not in known:
                report.differs(f"join_token {token.id}: {user}; the journal has no such join")
        for id_, join in joins.items():
            report.differs(f"join_token {id_}: it is missing; worker {join.worker} joined with it")


def _facts(worker: str, source: WorkerJoined | JoinToken) -> tuple[str, str, int, bool]:
    return worker, source.owner, source.stake_microcredits, source.auditor


def check_shell_records(
    reader: Reader, records: Replayed, joins: JoinsOfTheJournal, report: Differences
) -> None:
    """Compare the shell's records with what was replayed, each other, and themselves."""
    joins.check(reader, report)
    _check_publications(reader, records, report)
    _check_uploads(reader, records, report)
    for kind in (PublishedCheckpoint, SetAside):
        for _ in reader.find_readable(kind):
            pass  # only that it can be read


def _check_publications(reader: Reader, records: Replayed, report: Differences) -> None:
    pipelines: Mapping[str, Pipeline] = records[Pipeline]
    # The journal of earlier versions names no account, and other writers of journals publish nothing.
    missing = {id_: None for id_, pipeline in pipelines.items() if pipeline.claims}
    for publication in _readable(reader, Publication, report):
        pipeline = pipelines.get(publication.id)
        missing.pop(publication.id, None)
        reason = (
            "the journal has no such pipeline"
            if pipeline is None
            else _why_not_published(publication, pipeline)
        )
        if reason:
            report.differs(f"publication {publication.id}: {reason}")
    for id_ in missing:
        if (Publication.__name__.lower(), id_) not in reader.unreadable:
            report.differs(f"publication {id_}: it is missing; the journal has its pipeline")


def _why_not_published(publication: Publication, pipeline: Pipeline) -> str:
    """What does not fit; "" if all does."""
    if cid_of_block(publication.manifest, "dag-cbor") != publication.id:
        return "its manifest is not the one with this CID"
    claiming = {account for account, _ in pipeline.claims}
    if claiming and publication.account not in claiming:
        return f"account {publication.account} published it; in the journal, {', '.join(sorted(claiming))}"
    try:
        artifacts = {*decode_manifest(publication.manifest).artifacts()}
        signers = {
            signer
            for bundles in (publication.bundle, *publication.added.values())
            for signer, _ in claimed_signatures(publication.manifest, bundles)
        }
    except TradepostError as error:
        return f"{type(error).__name__}: {error}"
    if pipeline.publishers and signers != set(pipeline.publishers):
        return f"its signers are {sorted(signers)}; in the journal, {sorted(pipeline.publishers)}"
    if not {publication.id, *artifacts} <= set(publication.blocks):
        return "its blocks lack its manifest or an artifact"
    return ""


def _check_uploads(reader: Reader, records: Replayed, report: Differences) -> None:
    accounts = {key.account for key in reader.find_readable(ApiKey)}
    leases: Mapping[str, Lease] = records[Lease]
    for upload in _readable(reader, Upload, report):
        kind, _, name = upload.holder.partition(":")
        if upload.id != Upload.key(upload.holder, upload.cid):
            report.differs(f"upload {upload.id}: its holder and its CID are {upload.holder} and {upload.cid}")
        elif not (name in accounts if kind == _ACCOUNT else kind == _LEASE and name in leases):
            report.differs(f"upload {upload.id}: there is no {upload.holder}")


def _readable(reader: Reader, kind: type[Any], report: Differences) -> Iterator[Any]:
    """Every record of a kind; columns must say the same as the body."""
    codec = CODECS[kind]
    for row, record in reader.readable_rows(kind):
        if codec.to_row(record) != tuple(row):
            report.differs(f"{kind.__name__.lower()} {record.id}: its columns differ from its body")
        yield record
