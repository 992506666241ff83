"""Blocks that accounts and workers put into the content store, and who may use them.

A CID is integrity, never authorisation: a block may be read or submitted by those who sent its bytes
themselves, each counted in full against its own quota, so that nobody learns what others have stored.
The exception are the blocks of published pipelines, which are public.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from typing import Final

from sqlalchemy import case, func, select

from tradepost.content import Cid, FolderStore, parse_cid, verify_upload
from tradepost.content.unixfs.files import stream_file
from tradepost.errors import QuotaExceeded, UnknownCid
from tradepost_broker.content.file_trees import FileTrees
from tradepost_broker.content.kept_documents import BLOCK_BYTES_MIN, LEASE, KeptDocuments
from tradepost_broker.engine.engine import Engine
from tradepost_broker.engine.work import Delete, Keep
from tradepost_broker.storage.disk_space import DiskSpace
from tradepost_broker.storage.rows import CODECS
from tradepost_broker.storage.shell_records import Delivery, Publication, Upload
from tradepost_broker.storage.store import Deletion, Store

#: For so long, the use of a file that was noted needs not be noted again: it costs a row for each block.
USE_NOTED_S: Final = 3600.0
_NOTED_AT_ONCE: Final = 256
_DROPPED_AT_ONCE: Final = 1_000
_HOLDERS_KEPT: Final = 10_000
_DELETE_UPLOAD: Final = "DELETE FROM uploads WHERE id = ?"
#: Outputs were checked against their pipeline's limit when they were delivered.
_OUTPUT_BYTES_MAX: Final = 1 << 53

#: Raises an error unless there is room for so many bytes.
RequireRoom = Callable[[int], None]


class Uploads:
    """The content store, by holder: `account:<name>` or `lease:<id>`.

    Blocks of a lease count in `documents` too, for the account whose job it is.
    """

    def __init__(
        self,
        *,
        blocks: FolderStore,
        store: Store,
        engine: Engine,
        space: DiskSpace,
        documents: KeptDocuments,
    ) -> None:
        self._documents = documents
        self._blocks = blocks
        self._space = space
        self._store = store
        self._engine = engine
        self._used: dict[str, int] = {}
        #: What is being put now, by upload id; a second request for the same waits for the first.
        self._putting: dict[str, asyncio.Event] = {}
        self._public: set[str] = {cid for one in store.find_readable(Publication) for cid in one.blocks}
        self._trees = FileTrees(blocks=blocks, open_reader=store.open_reader)
        # Writing a block waits for the disk twice; one thread keeps the store's byte count right.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="tradepost-blocks")
        # Two keep a disk busy. With more, handing the interpreter's lock around costs a seventh of the rate.
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="tradepost-reads")

    def missing_public_blocks(self) -> int:
        """How many blocks of published pipelines are not in the store. A manifest is in its publication."""
        manifests = {row[0] for row in self._store.query(select(CODECS[Publication].table.c.id))}
        return sum(not self._blocks.has(parse_cid(cid)) for cid in self._public - manifests)

    def close(self) -> None:
        """Finish writing and reading."""
        self._writer.shutdown()
        self._readers.shutdown()
        self._trees.close()

    async def put(
        self,
        holder: str,
        text: str,
        data: bytes,
        *,
        at: float,
        require_room: RequireRoom,
        quota_bytes: int | None = None,
        account: str = "",
    ) -> Cid:
        """Keep a block for `holder`, durably. It is counted as `BLOCK_BYTES_MIN` at least.

        `require_room`, `quota_bytes` and `account` are as in `counted`.

        Raises what `counted` raises, `DiskFull`, or what the content store raises.
        """
        cid = parse_cid(text)
        verify_upload(cid, data)
        counted = self.counted(
            holder,
            cid,
            len(data),
            require_room=require_room,
            quota_bytes=quota_bytes,
            account=account,
        )
        async with counted as is_new:
            if is_new:
                await self._in_thread(self._write, holder, cid, data)
                upload = Upload(
                    id=Upload.key(holder, cid), holder=holder, cid=cid, size_bytes=len(data), at=at
                )
                await self._engine.ask(Keep(upload))
        return cid

    @asynccontextmanager
    async def counted(
        self,
        holder: str,
        cid: Cid,
        size_bytes: int,
        *,
        require_room: RequireRoom | None = None,
        quota_bytes: int | None = None,
        account: str = "",
    ) -> AsyncIterator[bool]:
        """Count a block for `holder`, who puts it until this ends; whether it is new, and so counted at all.

        Of several at once, one is new. If it fails, it is not counted. `require_room` gets the bytes that a
        new block is counted as, and raises to refuse it. All blocks of `holder` may have `quota_bytes`.
        `account` is whom a block of a lease is kept for.

        Raises `QuotaExceeded` beyond `quota_bytes`, and what `require_room` raises.
        """
        key = Upload.key(holder, cid)
        while (earlier := self._putting.get(key)) is not None:
            await earlier.wait()
        if self.holds(holder, cid):
            yield False
            return
        if not self._putting and len(self._used) > _HOLDERS_KEPT:
            self._used.clear()
        used, counted = self.used_bytes(holder), max(size_bytes, BLOCK_BYTES_MIN)
        if quota_bytes is not None and used + counted > quota_bytes:
            raise QuotaExceeded(
                f"{used:,} of {quota_bytes:,} bytes are used; this block counts as {counted:,}",
                limit_bytes=quota_bytes,
            )
        if require_room is not None:
            require_room(counted)
        self._used[holder] = used + counted
        if account:
            self._documents.add_blocks(account, counted)
        done = self._putting[key] = asyncio.Event()
        try:
            yield True
        except BaseException:
            self._used[holder] -= counted
            if account:
                self._documents.subtract_blocks(account, counted)
            raise
        finally:
            del self._putting[key]
            done.set()

    def _write(self, holder: str, cid: Cid, data: bytes) -> None:
        # In the one thread that writes, so that what was measured is still free.
        if holder.startswith(LEASE):
            self._space.require_for_outputs(len(data))
        else:
            self._space.require_for_new_work(len(data))
        self._blocks.put(cid, data)

    async def drop_unused(self, *, before: float) -> int:
        """Forget blocks last used before a time, unless they are public; how many uploads that were."""
        table = CODECS[Upload].table
        old = select(table).where(table.c.at < before).order_by(table.c.at).limit(_DROPPED_AT_ONCE)
        uploads = [one for one in self._store.find_readable(Upload, old) if one.cid not in self._public]
        await self._drop(uploads)
        return len(uploads)

    async def drop_output(self, lease: str) -> None:
        """Forget the blocks of a lease's output, unless they are public."""
        table = CODECS[Upload].table
        found = self._store.find_readable(Upload, select(table).where(table.c.holder == f"{LEASE}{lease}"))
        await self._drop([one for one in found if one.cid not in self._public])

    async def _drop(self, uploads: Sequence[Upload]) -> None:
        if not uploads:
            return
        table = CODECS[Upload].table
        await self._engine.ask(Delete([Deletion(_DELETE_UPLOAD, (one.id,)) for one in uploads]))
        self._trees.forget({one.holder for one in uploads})
        for cid in {one.cid for one in uploads}:
            in_use = self._store.query(select(func.count()).where(table.c.cid == cid))[0][0]
            # Who puts the same block now comes after this in the same thread, and writes it again.
            if not in_use and not any(key.endswith(f"/{cid}") for key in self._putting):
                await self._in_thread(self._blocks.discard, Cid(cid))
        freed: Counter[str] = Counter()
        for upload in uploads:
            freed[upload.holder] += max(upload.size_bytes, BLOCK_BYTES_MIN)
        for holder, size_bytes in freed.items():
            # Not forgotten: what is being put now is counted here alone.
            if holder in self._used:
                self._used[holder] -= size_bytes
            if holder.startswith(LEASE):
                account = self._documents.account_of_lease(holder.removeprefix(LEASE))
                self._documents.subtract_blocks(account, size_bytes)

    async def _in_thread(self, function: Callable[..., object], *arguments: object) -> None:
        await asyncio.get_running_loop().run_in_executor(self._writer, function, *arguments)

    def used_bytes(self, holder: str) -> int:
        """The bytes that all blocks that `holder` put here are counted as."""
        if holder not in self._used:
            table = CODECS[Upload].table
            is_small = table.c.size_bytes < BLOCK_BYTES_MIN
            counted = case((is_small, BLOCK_BYTES_MIN), else_=table.c.size_bytes)
            total = select(func.sum(counted)).where(table.c.holder == holder)
            self._used[holder] = self._store.query(total)[0][0] or 0
        return self._used[holder]

    def holds(self, holder: str, cid: str) -> bool:
        """Whether `holder` put this block here."""
        return self._store.get(Upload, Upload.key(holder, cid)) is not None

    def require_public(self, cid: Cid) -> None:
        """Raise `UnknownCid` unless the block belongs to a published pipeline."""
        if cid not in self._public:
            raise UnknownCid(f"{cid} is in no published pipeline", cid=cid)

    async def read_public(self, cid: Cid) -> bytes:
        """The verified bytes of a block of a published pipeline. Raises `UnknownCid` for any other."""
        self.require_public(cid)
        return await self.read(cid)

    def publish(self, publication: Publication) -> None:
        """Make the blocks of a publication public, once it is durable."""
        self._public.update(publication.blocks)

    async def read(self, cid: Cid) -> bytes:
        """The verified bytes of a block. Raises `UnknownCid`."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._readers, self._blocks.get, cid)
        except UnknownCid:
            # A published manifest is kept with its publication.
            publication = self._store.get(Publication, cid)
            if publication is None:
                raise
            return publication.manifest

    def copy_output(self, delivery: Delivery, write: Callable[[bytes], object]) -> None:
        """Give each part of a delivered output to `write`. It waits for the disk: call it in a thread.

        Raises `UnknownCid` or `ContentMismatch` if a block is lost or damaged.
        """
        if delivery.output is not None:
            write(delivery.output)
        else:
            self.copy_file(delivery.output_cid, write, bytes_max=_OUTPUT_BYTES_MAX)

    def copy_file(self, root: str, write: Callable[[bytes], object], *, bytes_max: int) -> int:
        """Give each part of the file at `root` to `write`; the size in bytes. Check first whose it is.

        It waits for the disk, in an event loop of its own: call it in a thread. Raises `UnknownCid`,
        `ContentMismatch`, or `ContentTooLarge` beyond `bytes_max`.
        """

        async def get(cid: Cid) -> bytes:
            return self._blocks.get(cid)

        async def copy() -> int:
            size_bytes = 0
            async with aclosing(stream_file(parse_cid(root), get, bytes_max=bytes_max)) as parts:
                async for part in parts:
                    write(part)
                    size_bytes += len(part)
            return size_bytes

        return asyncio.run(copy())

    def stream_output(self, delivery: Delivery) -> AsyncGenerator[bytes, None]:
        """A delivered output that was uploaded, part by part, for a reader that may take long."""
        return stream_file(Cid(delivery.output_cid), self.read, bytes_max=_OUTPUT_BYTES_MAX)

    async def tree(self, holder: str, root: str, *, bytes_max: int | None = None) -> Mapping[str, int]:
        """Every block of the file at `root`, with its size in bytes, all of which `holder` put here.

        Raises as `FileTrees.tree`.
        """
        return (await self._trees.tree(holder, root, bytes_max=bytes_max)).sizes

    async def note_use(self, holder: str, root: str, *, at: float) -> None:
        """Note, durably, that the file at `root` is used at a time, unless that was noted just before.

        Raises as `FileTrees.tree`.
        """
        tree = await self._trees.tree(holder, root)
        if at - tree.used_at < USE_NOTED_S:
            return
        used = [
            Upload(id=Upload.key(holder, cid), holder=holder, cid=cid, size_bytes=size_bytes, at=at)
            for cid, size_bytes in tree.sizes.items()
        ]
        for start in range(0, len(used), _NOTED_AT_ONCE):
            await self._engine.ask(Keep(*used[start : start + _NOTED_AT_ONCE]))
        tree.used_at = at
