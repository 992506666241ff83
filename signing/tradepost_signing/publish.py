"""Publishing: the signed manifest and every block that it links to, brought to a broker.

Blocks go first and the manifest last, so a broker never lists a pipeline that it cannot serve. A block that
the broker has is not sent again: after a break, publishing again goes on where it stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import aiohttp
import msgspec
from yarl import URL

from tradepost.broker_url import raise_for_problem, raise_unavailable
from tradepost.content import Cid, cid_of_block, verify_block
from tradepost.errors import TradepostError
from tradepost.manifest import encode_manifest
from tradepost.protocol import PublishRequest
from tradepost_signing.artifacts import Artifact, Block
from tradepost_signing.bundle import Signer, join_bundles, sign_bytes
from tradepost_signing.pipeline_toml import Pipeline

#: How many blocks are on their way at once.
_UPLOADS: Final = 8
_TIMEOUT: Final = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)


@dataclass(frozen=True, slots=True)
class SignedPipeline:
    """A pipeline ready to be published: the manifest's block, the bundles over it, and the artifacts."""

    cid: Cid
    manifest_block: bytes
    bundle: str
    artifacts: Mapping[Cid, Artifact]

    def blocks(self) -> Iterator[tuple[Artifact, Block]]:
        """Every block of every artifact, each once, children before parents."""
        seen: set[Cid] = set()
        for artifact in self.artifacts.values():
            for block in artifact.blocks:
                if block.cid not in seen:
                    seen.add(block.cid)
                    yield artifact, block

    @property
    def total_bytes(self) -> int:
        """The size of all blocks."""
        return sum(block.size for _, block in self.blocks())


@dataclass(frozen=True, slots=True)
class Uploaded:
    """What publishing sent, and what the broker had already."""

    sent_blocks: int
    sent_bytes: int
    present_blocks: int


def sign_pipeline(pipeline: Pipeline, *signers: Signer) -> SignedPipeline:
    """`pipeline`, signed by each: links make a signature over the manifest's block cover every artifact."""
    block = encode_manifest(pipeline.manifest)
    return SignedPipeline(
        cid=cid_of_block(block, "dag-cbor"),
        manifest_block=block,
        bundle=join_bundles(sign_bytes(block, signer) for signer in signers),
        artifacts=pipeline.artifacts,
    )


async def publish(
    signed: SignedPipeline, *, broker: URL, api_key: str, progress: Callable[[int], None]
) -> Uploaded:
    """Bring `signed` to the broker; `progress` is told the bytes of each block that is there.

    Raises what the broker refuses it with (`InvalidPipeline`, `Unauthorized`, `QuotaExceeded`, …), or
    `BrokerUnavailable`; nothing is listed then, and publishing again is safe.
    """
    async with aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {api_key}"}, timeout=_TIMEOUT
    ) as session:
        upload = _Upload(session, broker, progress)
        try:
            await upload.run(signed.blocks())
            request = PublishRequest(manifest=signed.manifest_block, bundle=signed.bundle)
            async with session.post(
                broker / "v1/pipelines",
                data=msgspec.json.encode(request),
                headers={"Content-Type": "application/json"},
            ) as response:
                await raise_for_problem(response)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise_unavailable(broker, error)
    return Uploaded(upload.sent_blocks, upload.sent_bytes, upload.present_blocks)


class _Upload:
    """Sends blocks, several at once."""

    def __init__(self, session: aiohttp.ClientSession, broker: URL, progress: Callable[[int], None]) -> None:
        self._session = session
        self._broker = broker
        self._progress = progress
        self.sent_blocks = self.sent_bytes = self.present_blocks = 0

    async def run(self, blocks: Iterator[tuple[Artifact, Block]]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(_UPLOADS):
                    group.create_task(self._take(blocks))
        except* (TradepostError, aiohttp.ClientError, OSError, TimeoutError) as failures:
            raise failures.exceptions[0] from None  # the others failed because it did, or in the same way

    async def _take(self, blocks: Iterator[tuple[Artifact, Block]]) -> None:
        for artifact, block in blocks:
            await self._bring(artifact, block)
            self._progress(block.size)

    async def _bring(self, artifact: Artifact, block: Block) -> None:
        url = self._broker / "v1/blocks" / block.cid
        async with self._session.head(url) as response:
            if response.status == 200:
                self.present_blocks += 1
                return
        data = artifact.read(block)
        # The file may have changed since it was addressed.
        verify_block(block.cid, data, source=artifact.source)
        async with self._session.put(url, data=data) as response:
            await raise_for_problem(response)
        self.sent_blocks += 1
        self.sent_bytes += len(data)
