"""The audit log over HTTP: checkpoints and tiles for everybody, proofs for an account's own receipts.

Checkpoints and tiles are served as C2SP tlog-tiles has it. Entries are commitments, so bundles of them show
nothing; what an entry holds is never served here.
"""

from __future__ import annotations

import re
from typing import Final

from aiohttp import web

from tradepost.audit_log.checkpoint import verifier_key
from tradepost.audit_log.merkle import consistency_path, inclusion_path
from tradepost.audit_log.proofs import LoggedReceipt, LogProof
from tradepost.audit_log.tiles import Tile, entry_bundle, parse_tile_path
from tradepost.errors import InvalidRequest, NotInLog
from tradepost.identity import Identity
from tradepost_broker.access.caller_limits import ConcurrencyLimit
from tradepost_broker.jobs.job_service import JobService
from tradepost_broker.reporting.checkpoints import CheckpointPublisher
from tradepost_broker.storage.log_tree import LogTree, Place
from tradepost_broker.storage.store import Store
from tradepost_broker.web.endpoints import ACCOUNT, Access, Endpoint, read_wait_s, reply

_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,15}", re.ASCII)
#: Requests for proofs that wait for a checkpoint; those of one account.
_WAITS_MAX: Final = 1_024
_WAITS_EACH_MAX: Final = 64
_TEXT: Final = "text/plain"
_BYTES: Final = "application/octet-stream"


class AuditLogEndpoints:
    """`/v1/log/…`, and the proofs of jobs' receipts."""

    def __init__(
        self, *, broker: Identity, store: Store, jobs: JobService, checkpoints: CheckpointPublisher
    ) -> None:
        self._broker = broker
        self._jobs = jobs
        self._checkpoints = checkpoints
        self._tree = LogTree(store.rows)
        self._waits = ConcurrencyLimit(
            "requests that wait for a checkpoint", total=_WAITS_MAX, each=_WAITS_EACH_MAX
        )

    def endpoints(self) -> list[Endpoint]:
        """What is served."""
        tile = "/v1/log/tile/{level}/{tile}"
        return [
            Endpoint(
                method="GET", path="/v1/log/checkpoint", handler=self.checkpoint, reply=bytes, media=_TEXT
            ),
            Endpoint(method="GET", path="/v1/log/key", handler=self.key, reply=bytes, media=_TEXT),
            Endpoint(
                method="GET",
                path=tile,
                route="/v1/log/tile/{level}/{tile:.+}",
                handler=self.tile,
                reply=bytes,
                media=_BYTES,
            ),
            Endpoint(
                method="GET",
                path="/v1/jobs/{job}/proof",
                handler=self.proof,
                access=Access.ACCOUNT,
                reply=LogProof,
            ),
        ]

    async def checkpoint(self, request: web.Request) -> web.StreamResponse:
        """The newest checkpoint of the audit log: a signed note (C2SP tlog-checkpoint)."""
        return _text(self._checkpoints.note)

    async def key(self, request: web.Request) -> web.StreamResponse:
        """The key that verifies checkpoints, in the form that tools for signed notes take."""
        return _text(f"{verifier_key(self._broker.public_key)}\n")

    async def tile(self, request: web.Request) -> web.StreamResponse:
        """Hashes of the log's tree, or the commitments of its entries (`entries`): C2SP tlog-tiles."""
        path = f"{request.match_info['level']}/{request.match_info['tile']}"
        tile = parse_tile_path(path)
        if tile is None:
            raise InvalidRequest(f"{path} is not the path of a tile", hint="See c2sp.org/tlog-tiles.")
        if not tile.is_within(self._checkpoints.size):
            raise NotInLog(f"a tree of the {self._checkpoints.size} published entries has no tile {path}")
        headers = {
            "Content-Type": _BYTES,
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "public, max-age=31536000, immutable",
        }
        return web.Response(body=self._tile(tile), headers=headers)

    async def proof(self, request: web.Request) -> web.StreamResponse:
        """That the log has the receipts of a job that has ended, also those of a result that was found wrong;
        `since=N`: also that it extends its first N entries. With `wait_s` (at most 60), once a checkpoint
        covers them or that time has passed."""
        account, since = request[ACCOUNT], _since(request)
        job = self._jobs.job(account, request.match_info["job"])
        leases = self._jobs.leases_with_receipts(job)
        places = [(lease, place) for lease in leases if (place := self._tree.receipt(lease)) is not None]
        if not places:
            raise NotInLog(
                f"job {job.id} is {job.status.value} and has no receipts",
                hint="A job has receipts when it has ended with a result, or with a verified failure.",
            )
        with self._waits.take(account):
            newest = max(place.number for _, place in places)
            if not await self._checkpoints.covers(newest, wait_s=read_wait_s(request)):
                raise NotInLog(f"no published checkpoint covers the receipts of job {job.id} yet")
        return reply(self._prove(places, since))

    def _prove(self, places: list[tuple[str, Place]], since: int | None) -> LogProof:
        size, node = self._checkpoints.size, self._tree.node
        if since is not None and since > size:
            raise InvalidRequest(
                f"since is {since}, and the published checkpoint has {size} entries",
                hint="If this broker signed a checkpoint of that size, its log has lost entries: keep it.",
            )
        return LogProof(
            checkpoint=self._checkpoints.note,
            public_key=self._broker.public_key,
            receipts=tuple(
                LoggedReceipt(
                    lease=lease,
                    index=place.number,
                    nonce=place.nonce,
                    path=inclusion_path(place.number, size, node),
                )
                for lease, place in places
            ),
            since=since,
            consistency=() if since is None else consistency_path(since, size, node),
        )

    def _tile(self, tile: Tile) -> bytes:
        if tile.level is None:
            return entry_bundle(self._tree.commitments(tile.start, tile.width))
        return b"".join(self._tree.hashes(tile.level, tile.start, tile.width))


def _since(request: web.Request) -> int | None:
    text = request.query.get("since")
    if text is None:
        return None
    if not _SIZE.fullmatch(text):
        raise InvalidRequest(f"since is {text[:40]!r}; it must be the size of a checkpoint")
    return int(text)


def _text(text: str) -> web.Response:
    headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
    return web.Response(text=text, content_type=_TEXT, charset="utf-8", headers=headers)
