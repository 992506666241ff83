"""Signatures of a published pipeline are added, never owned: the first to publish it locks nobody out."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from tradepost.errors import InvalidPipeline, UnknownCid, UntrustedPipeline
from tradepost.pipeline.manifest import decode_manifest, encode_manifest
from tradepost.protocol import PipelineView, PublishRequest
from tradepost_broker.content.kept_documents import BLOCK_BYTES_MIN
from tradepost_broker.content.signatures import ACCOUNTS_MAX, add_signatures, served_signatures
from tradepost_broker.reporting.views import PipelineSummary
from tradepost_broker.storage.shell_records import Publication, Upload
from tradepost_broker.testing import LocalBroker, SamplePipeline, local_broker
from tradepost_signing import SigningKey, TrustPolicy, sign_bytes
from tradepost_signing.bundles.bundle import SIGNATURES_MAX, join_bundles

SAMPLE = SamplePipeline()
BLOCK = encode_manifest(SAMPLE.manifest)


def signed_by(*keys: SigningKey) -> PublishRequest:
    return PublishRequest(manifest=BLOCK, bundle=join_bundles(sign_bytes(BLOCK, key) for key in keys))


def forged_for(key: SigningKey) -> PublishRequest:
    """What claims to be `key`'s signature, and is none: the broker has no key to find out with."""
    good, bad = (msgspec.json.decode(sign_bytes(BLOCK, each)) for each in (key, SigningKey.generate()))
    bad["verificationMaterial"] = good["verificationMaterial"]
    return PublishRequest(manifest=BLOCK, bundle=msgspec.json.encode(bad).decode())


async def publish(broker: LocalBroker, account: str, request: PublishRequest) -> str:
    """Publish as `account`, which has uploaded every block; the account's API key."""
    key = await broker.account(account)
    for cid, data in SAMPLE.blocks():
        await broker.call("PUT", f"/v1/blocks/{cid}", key=key, body=data)
    await broker.call("POST", "/v1/pipelines", key=key, body=request)
    return key


async def served(broker: LocalBroker) -> PipelineView:
    view: PipelineView = await broker.call("GET", f"/v1/pipelines/{SAMPLE.cid}", reply=PipelineView)
    return view


def is_trusted(view: PipelineView, key: SigningKey) -> bool:
    """Whether a worker whose owner trusts this key alone runs the pipeline."""
    try:
        policy = TrustPolicy.of_key(key.public_key, name="alice")
        policy.check_pipeline(decode_manifest(view.manifest), view.manifest, view.bundle)
    except UntrustedPipeline:
        return False
    return True


async def test_two_teams_that_publish_the_same_pipeline_meet_in_it(tmp_path: Path) -> None:
    first, second = SigningKey.generate(), SigningKey.generate()
    async with local_broker(tmp_path) as broker:
        await publish(broker, "one", signed_by(first))
        await publish(broker, "two", signed_by(second))
        listed: list[PipelineSummary] = await broker.call("GET", "/v1/pipelines", reply=list[PipelineSummary])
        assert [set(each.publishers) for each in listed] == [{first.public_key.id, second.public_key.id}]
    async with local_broker(tmp_path) as broker:  # also after a restart
        view = await served(broker)
        assert is_trusted(view, first)
        assert is_trusted(view, second)
        assert not is_trusted(view, SigningKey.generate())


async def test_a_second_key_of_one_account_is_added_and_a_second_signature_of_one_key_is_not(
    broker: LocalBroker,
) -> None:
    old, new = SigningKey.generate(), SigningKey.generate()
    for request in (signed_by(old), signed_by(new), signed_by(new), signed_by(old, new)):
        await publish(broker, "alice", request)
    view = await served(broker)
    assert is_trusted(view, old)
    assert is_trusted(view, new)
    assert len(view.bundle.splitlines()) == 2


@pytest.mark.parametrize("is_first", [True, False])
async def test_no_squatter_keeps_the_publisher_out(broker: LocalBroker, *, is_first: bool) -> None:
    """Neither by being first, nor by forged signatures in the publisher's name, nor by many signatures."""
    publisher = SigningKey.generate()
    if not is_first:
        await publish(broker, "alice", signed_by(publisher))
    await publish(broker, "mallory", forged_for(publisher))
    await publish(broker, "malloy", signed_by(*(SigningKey.generate() for _ in range(SIGNATURES_MAX))))
    if is_first:
        await publish(broker, "alice", signed_by(publisher))
    assert is_trusted(await served(broker), publisher)


async def test_one_account_has_a_bounded_number_of_signatures(broker: LocalBroker) -> None:
    keys = [SigningKey.generate() for _ in range(SIGNATURES_MAX)]
    await publish(broker, "alice", signed_by(*keys))
    with pytest.raises(InvalidPipeline, match="9 keys or identities; the limit is 8"):
        await publish(broker, "alice", signed_by(SigningKey.generate()))
    view = await served(broker)
    assert all(is_trusted(view, key) for key in keys)


def publication(accounts: int, keys_each: int) -> Publication:
    """A publication that this many accounts have signed with this many keys each."""
    request = signed_by(*(SigningKey.generate() for _ in range(keys_each)))
    made = Publication(id=SAMPLE.cid, account="0", at=0.0, manifest=BLOCK, bundle=request.bundle, blocks=())
    return replace_added(made, {str(number): request.bundle for number in range(1, accounts)})


def replace_added(made: Publication, added: dict[str, str]) -> Publication:
    return msgspec.structs.replace(made, added=added)


def test_every_accounts_first_signature_is_served_before_anybodys_second() -> None:
    key = SigningKey.generate()
    full = add_signatures(publication(ACCOUNTS_MAX - 1, SIGNATURES_MAX), "alice", signed_by(key).bundle)
    publishers, bundle = served_signatures(full)
    assert key.public_key.id in publishers
    assert len(bundle.splitlines()) == ACCOUNTS_MAX
    assert is_trusted(PipelineView(pipeline=SAMPLE.cid, manifest=BLOCK, bundle=bundle), key)


def test_a_bundle_that_a_worker_cannot_read_hides_no_other() -> None:
    key = SigningKey.generate()
    bundle = join_bundles(['{"mediaType":"one of a later version"}', signed_by(key).bundle])
    assert is_trusted(PipelineView(pipeline=SAMPLE.cid, manifest=BLOCK, bundle=bundle), key)


async def test_publications_at_once_lose_no_signature_and_count_the_manifest_once(tmp_path: Path) -> None:
    keys = [SigningKey.generate() for _ in range(4)]
    async with local_broker(tmp_path) as broker:
        api_key = await broker.account("alice")
        uploads = broker.running.parts.uploads
        for cid, data in SAMPLE.blocks():
            await broker.call("PUT", f"/v1/blocks/{cid}", key=api_key, body=data)
        before = uploads.used_bytes("account:alice")
        requests = [broker.call("POST", "/v1/pipelines", key=api_key, body=signed_by(key)) for key in keys]
        put = broker.call("PUT", f"/v1/blocks/{SAMPLE.cid}", key=api_key, body=BLOCK)
        await asyncio.gather(*requests, put)
        view = await served(broker)
        assert all(is_trusted(view, key) for key in keys)
        assert uploads.used_bytes("account:alice") - before == max(len(BLOCK), BLOCK_BYTES_MIN)
        stored = [each for each in broker.running.parts.store.find(Upload) if each.holder == "account:alice"]
        counted = sum(max(each.size_bytes, BLOCK_BYTES_MIN) for each in stored)
        assert counted == uploads.used_bytes("account:alice")


async def test_a_signature_adds_to_what_others_have_uploaded_themselves_only(broker: LocalBroker) -> None:
    await publish(broker, "alice", signed_by(SigningKey.generate()))
    other = replace(SAMPLE, key=SigningKey.generate())
    key = await broker.account("bob")
    with pytest.raises(UnknownCid, match="was not uploaded with these credentials"):
        await broker.call("POST", "/v1/pipelines", key=key, body=other.request())
