"""Publishes to a Kubo node: the manifest, all linked blocks and the signatures, pinned."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tradepost.content import Cid, add_bytes
from tradepost.content.transfer.kubo import Kubo
from tradepost_signing.publishing.publish import SignedPipeline


def publish_to_kubo(signed: SignedPipeline, kubo: Kubo, *, progress: Callable[[int], None]) -> Cid:
    """Keep everything of `signed` in `kubo`; the CID of the signatures, as the file that `--save` writes.

    `progress` is told the bytes of each block of an artifact on its way. Raises `KuboFailed`, and as
    `Artifact.read`; what arrived before is not pinned then, and publishing again is safe.
    """
    signatures: list[tuple[Cid, bytes]] = []
    bundle = add_bytes(signed.bundle.encode(), put=lambda cid, block: signatures.append((cid, block)))

    def blocks() -> Iterator[tuple[Cid, bytes]]:
        for artifact, block in signed.blocks():
            yield block.cid, artifact.read(block)
            progress(block.size)
        yield signed.cid, signed.manifest_block
        yield from signatures

    kubo.put_all(blocks())
    # The manifest's links lead to every artifact. Nothing leads to the signatures, which are over it.
    for root in (signed.cid, bundle):
        kubo.pin(root)
    return bundle
