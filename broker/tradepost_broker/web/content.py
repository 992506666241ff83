"""REST for content: an account's blocks, one by one or in a CAR, and the blocks of open leases."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from aiohttp import web

from tradepost.content import BLOCK_BYTES_MAX, Cid, parse_cid, upload_mismatches
from tradepost.content.transfer.gateway import CAR_TYPE
from tradepost.errors import (
    BrokerUnavailable,
    ContentStoreFull,
    ContentTooLarge,
    DiskFull,
    InvalidRequest,
    LeaseGone,
    Unauthorized,
    UnknownCid,
)
from tradepost_broker.access.caller_limits import ConcurrencyLimit
from tradepost_broker.content.account_quota import AccountQuota
from tradepost_broker.content.car_import import import_pieces
from tradepost_broker.content.catalog import Catalog
from tradepost_broker.content.kept_documents import BLOCK_BYTES_MIN, LEASE
from tradepost_broker.content.uploads import Uploads
from tradepost_broker.engine.engine import Engine
from tradepost_broker.jobs.output_quota import OutputQuota, OutputWithoutRoom, cancel_without_room
from tradepost_broker.market import Market
from tradepost_broker.market.model.entities import Job, Lease, LeaseState
from tradepost_broker.reporting.views import ImportedCar
from tradepost_broker.web.endpoints import ACCOUNT, Access, Endpoint, reply
from tradepost_broker.web.request_bodies import read_bytes
from tradepost_broker.web.slow_peers import body_pieces

_BYTES: Final = "application/octet-stream"
#: What a tree of blocks may take beyond the file in it: a link has some 60 bytes for a leaf of 256 KiB, and
#: the last block of each level may be small.
_TREE_SHARE: Final = 1000
_TREE_BYTES: Final = 4 * BLOCK_BYTES_MIN
#: CARs that are taken at once, each with some 10 MiB of memory; from one account.
_CARS_MAX: Final = 32
_CARS_EACH_MAX: Final = 4
#: Blocks that are taken at once, each of at most 2 MiB; from one account or for one lease.
_BLOCKS_MAX: Final = 512
_BLOCKS_EACH_MAX: Final = 64
_NO_NONCE: Final = b"-" * 32


class ContentEndpoints:
    """Blocks, which count against the quota of the account that they are kept for."""

    def __init__(
        self,
        *,
        uploads: Uploads,
        catalog: Catalog,
        market: Market,
        clock: Callable[[], float],
        quota: AccountQuota,
        outputs: OutputQuota,
        engine: Engine,
    ) -> None:
        self._quota = quota
        self._outputs = outputs
        self._engine = engine
        self._uploads = uploads
        self._catalog = catalog
        self._market = market
        self._clock = clock
        self._cars = ConcurrencyLimit("CARs uploaded at once", total=_CARS_MAX, each=_CARS_EACH_MAX)
        self._blocks = ConcurrencyLimit("blocks uploaded at once", total=_BLOCKS_MAX, each=_BLOCKS_EACH_MAX)

    def endpoints(self) -> list[Endpoint]:
        """What is served."""
        every, own, leased = "/v1/blocks", "/v1/blocks/{cid}", "/v1/leases/{lease}/blocks/{cid}"
        account, lease = Access.ACCOUNT, Access.LEASE
        return [
            Endpoint(
                method="POST",
                path=every,
                handler=self.post_car,
                access=account,
                body=bytes,
                body_media=CAR_TYPE,
                reply=ImportedCar,
                status=201,
            ),
            Endpoint(
                method="PUT",
                path=own,
                handler=self.put,
                access=account,
                body=bytes,
                body_bytes_max=BLOCK_BYTES_MAX,
                reply=dict[str, str],
                status=201,
            ),
            Endpoint(method="GET", path=own, handler=self.get, access=account, reply=bytes, media=_BYTES),
            Endpoint(method="HEAD", path=own, handler=self.get, access=account),
            Endpoint(
                method="GET", path=leased, handler=self.get_input, access=lease, reply=bytes, media=_BYTES
            ),
            Endpoint(
                method="PUT",
                path=leased,
                handler=self.put_output,
                access=lease,
                body=bytes,
                body_bytes_max=BLOCK_BYTES_MAX,
                reply=dict[str, str],
                status=201,
            ),
        ]

    async def put(self, request: web.Request) -> web.StreamResponse:
        """Keep one block of at most 2 MiB for this account, whose quota it counts against."""
        account = request[ACCOUNT]
        put = partial(self._uploads.put, require_room=partial(self._quota.require, account))
        return await self._put(request, f"account:{account}", put)

    async def post_car(self, request: web.Request) -> web.StreamResponse:
        """Keep every block of a CAR (version 1) for this account, whose quota they count against.

        The body may be as large as the quota. Blocks that came before an error may stay.
        """
        account, quota, at = request[ACCOUNT], self._quota.bytes_max, self._clock()
        holder = f"account:{account}"
        if request.content_type != CAR_TYPE:
            raise InvalidRequest(f"the body is {request.content_type}; send a CAR as {CAR_TYPE}")
        if (request.content_length or 0) > quota:
            raise ContentTooLarge(
                f"the CAR has {request.content_length:,} bytes; an account may store {quota:,}"
            )

        async def put(cid: Cid, block: bytes) -> Cid:
            require_room = partial(self._quota.require, account)
            return await self._uploads.put(holder, cid, block, at=at, require_room=require_room)

        with self._cars.take(holder), upload_mismatches():
            found = await import_pieces(body_pieces(request), put, bytes_max=quota)
        return reply(ImportedCar(roots=found.roots, blocks=found.blocks, bytes=found.bytes), status=201)

    async def get(self, request: web.Request) -> web.StreamResponse:
        """A block that this account has put here."""
        cid = parse_cid(request.match_info["cid"])
        if not self._uploads.holds(f"account:{request[ACCOUNT]}", cid):
            raise UnknownCid(f"{cid} was not uploaded by this account", cid=cid)
        return _block(await self._uploads.read(cid))

    async def get_input(self, request: web.Request) -> web.StreamResponse:
        """A block of the input of an open lease's job."""
        _, job = self._open_lease(request)
        cid = parse_cid(request.match_info["cid"])
        if cid not in await self._uploads.tree(f"account:{job.account}", job.input):
            raise UnknownCid(f"{cid} is not in the input of this lease", cid=cid)
        return _block(await self._uploads.read(cid))

    async def put_output(self, request: web.Request) -> web.StreamResponse:
        """Keep one block of an open lease's output, within the pipeline's limit and its submitter's quota.

        An output that does not fit into the quota ends the job.
        """
        lease, job = self._open_lease(request)
        limit = self._catalog.manifest(job.pipeline).limits.output_bytes
        put = partial(
            self._uploads.put,
            require_room=partial(self._outputs.require, lease),
            quota_bytes=limit + limit // _TREE_SHARE + _TREE_BYTES,
            account=job.account,
        )
        try:
            return await self._put(request, f"{LEASE}{lease.id}", put)
        except OutputWithoutRoom as error:
            await self._engine.ask(cancel_without_room(error.job))
            raise LeaseGone(f"job {job.id} was cancelled: its output has no room") from None
        except (ContentStoreFull, DiskFull) as error:
            # Not the worker's fault: it keeps its output, and tries again.
            raise BrokerUnavailable(f"the broker has no room for this output: {error.detail}") from None

    async def _put(
        self, request: web.Request, holder: str, put: Callable[..., Awaitable[Cid]]
    ) -> web.StreamResponse:
        with self._blocks.take(holder):
            data = await read_bytes(request)
            cid = await put(holder, request.match_info["cid"], data, at=self._clock())
        return reply({"cid": cid}, status=201)

    def _open_lease(self, request: web.Request) -> tuple[Lease, Job]:
        """The lease whose nonce the request brings. Raises `Unauthorized` or `LeaseGone`."""
        scheme, _, nonce = request.headers.get("Authorization", "").partition(" ")
        lease = self._market.lease(request.match_info["lease"])
        # One answer for an unknown lease and for a wrong nonce: nobody learns how many leases a job has.
        expected = _NO_NONCE if lease is None else lease.nonce.hex().encode()
        is_right = hmac.compare_digest(nonce.strip().encode(), expected)
        if scheme.lower() != "lease" or lease is None or not is_right:
            raise Unauthorized(
                "there is no such lease, or the `Authorization: Lease` header is not its nonce"
            )
        job = self._market.job(lease.job)
        if lease.state is not LeaseState.OPEN or lease.expires_at <= self._clock() or job is None:
            raise LeaseGone(f"lease {lease.id} is {lease.state.value}", lease=lease.id)
        return lease, job


def _block(data: bytes) -> web.Response:
    return web.Response(body=data, content_type=_BYTES, headers={"X-Content-Type-Options": "nosniff"})
