"""Which pipelines may run on a device follows what its owner and the operator last said."""

from __future__ import annotations

import os
from typing import Any, cast

import pytest

from tradepost.content import add_bytes, cid_of_block
from tradepost.errors import InvalidTrustPolicy, Revoked, UntrustedPipeline
from tradepost.pipeline.manifest import KernelStage, Manifest, TensorSpec, encode_manifest
from tradepost.protocol import PipelineView
from tradepost_signing.bundles.bundle import sign_bytes
from tradepost_signing.keys import SigningKey
from tradepost_signing.policy.revocation import RevocationDocument, RevocationList
from tradepost_worker.leases.pipelines import PipelineLibrary

KEY, OTHER = SigningKey.generate(), SigningKey.generate()
KERNEL = add_bytes(b"kernel", put=None)
BLOCK = encode_manifest(
    Manifest(
        name="echo",
        version="1",
        inputs={"x": TensorSpec(dtype="U8", shape=(None,))},
        stages=(KernelStage(name="one", artifact=KERNEL, inputs={"x": "input.x"}, outputs=("y",)),),
        outputs={"y": "one.y"},
    )
)
PIPELINE = cid_of_block(BLOCK, "dag-cbor")
TRUSTED = '[[publisher]]\nname = "alice"\nkey = "alice.pub"\n'


class Broker:
    """Knows one pipeline, and sends its kernel."""

    async def pipeline(self, cid: str) -> PipelineView:
        return PipelineView(pipeline=cid, manifest=BLOCK, bundle=sign_bytes(BLOCK, KEY))

    async def read_file(self, _cid: str, **_options: Any) -> bytes:
        return b"kernel"


@pytest.fixture
def library(tmp_path) -> PipelineLibrary:
    (tmp_path / "alice.pub").write_bytes(KEY.public_key.pem)
    (tmp_path / "trust.toml").write_text(TRUSTED)
    broker = cast(Any, Broker())
    return PipelineLibrary(
        broker=broker,
        fetcher=broker,
        trust_path=tmp_path / "trust.toml",
        providers=(),
        memory_bytes_max=1 << 40,
    )


async def test_what_is_revoked_stops_although_its_owner_denies_it_by_now(library, tmp_path):
    """A denial ends no lease, so it must not hide the operator's word, which does."""
    await library.get(PIPELINE)
    (tmp_path / "trust.toml").write_text(f'deny = ["{PIPELINE}"]\n{TRUSTED}')
    with pytest.raises(UntrustedPipeline):
        await library.get(PIPELINE)
    listed = RevocationDocument(version=1, issued_at=0, cids={KERNEL: "it crashes devices"})
    assert isinstance(library.enforce(RevocationList(listed))[PIPELINE], Revoked)


async def test_a_key_that_is_replaced_in_its_file_is_trusted_no_more(library, tmp_path):
    assert (await library.get(PIPELINE)).publisher == "alice"
    key = tmp_path / "alice.pub"
    aside = tmp_path / "aside"
    aside.write_bytes(OTHER.public_key.pem)
    os.replace(aside, key)
    with pytest.raises(UntrustedPipeline):
        await library.get(PIPELINE)
    key.unlink()
    with pytest.raises(InvalidTrustPolicy):
        await library.get(PIPELINE)
    key.write_bytes(KEY.public_key.pem)
    assert (await library.get(PIPELINE)).publisher == "alice"
