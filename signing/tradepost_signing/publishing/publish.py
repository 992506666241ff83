"""Publishes a signed manifest and every block that it links to, on a broker.

The broker is asked which blocks it has, and the others go in one CAR; after a break, publishing again goes on
where it stopped. Blocks go first and the manifest last, so a broker never lists a pipeline that it cannot
serve.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import aiohttp
import msgspec
from yarl import URL

from tradepost.broker_url import raise_for_problem, raise_unavailable
from tradepost.content import Cid, cid_of_block
from tradepost.pipeline.manifest import encode_manifest
from tradepost.protocol import PublishRequest
from tradepost.proxies import proxy_for
from tradepost_signing.bundles.bundle import Signer, join_bundles, sign_bytes
from tradepost_signing.publishing.artifacts import Artifact, Block
from tradepost_signing.publishing.car_upload import blocks_missing, send_car
from tradepost_signing.publishing.pipeline_toml import AuthoredPipeline

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
    """What publishing sent, and what the broker already had."""

    sent_blocks: int
    sent_bytes: int
    present_blocks: int


def sign_pipeline(pipeline: AuthoredPipeline, *signers: Signer) -> SignedPipeline:
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
    """Bring `signed` to the broker; `progress` is told the bytes of each block that is there, or on its way.

    Raises what the broker refuses it with (`InvalidPipeline`, `Unauthorized`, `QuotaExceeded`,
    `ContentTooLarge`, …), `ContentMismatch` or `UnreadableContent` for a file that has changed meanwhile, or
    `BrokerUnavailable`; nothing is listed then, and publishing again is safe.
    """
    blocks = list(signed.blocks())
    async with aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {api_key}"}, timeout=_TIMEOUT, proxy=proxy_for(broker)
    ) as session:
        try:
            missing = await blocks_missing(session, broker, blocks, progress)
            if missing:
                await send_car(session, broker, tuple(signed.artifacts), missing, progress)
            await _list(session, broker, signed)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise_unavailable(broker, error)
    sent_bytes = sum(block.size for _, block in missing)
    return Uploaded(len(missing), sent_bytes, len(blocks) - len(missing))


async def _list(session: aiohttp.ClientSession, broker: URL, signed: SignedPipeline) -> None:
    request = PublishRequest(manifest=signed.manifest_block, bundle=signed.bundle)
    async with session.post(
        broker / "v1/pipelines",
        data=msgspec.json.encode(request),
        headers={"Content-Type": "application/json"},
    ) as response:
        await raise_for_problem(response)
