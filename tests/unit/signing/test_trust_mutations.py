"""No mutation of a manifest, a policy or a revocation list is ever accepted.

A policy is its owner's own word, which nothing signs: of it the claim is that no accident trusts a stranger.
"""

import json
import tomllib
from typing import Any

import dag_cbor
import pytest
from hypothesis import HealthCheck, event, given, note, settings
from hypothesis import strategies as st

from forged_bundles import KEY, OTHER, STRANGER, assert_intact, with_digest_of
from mutations import mutated, mutated_tree
from tradepost.content import cid_of_block
from tradepost.errors import InvalidPipeline, InvalidRevocations, InvalidTrustPolicy, TradepostError
from tradepost.pipeline.manifest import (
    KernelStage,
    Manifest,
    ModelStage,
    TensorSpec,
    decode_manifest,
    encode_manifest,
)
from tradepost_signing.bundles.bundle import sign_bytes
from tradepost_signing.keyless.identity import SigstoreIdentity
from tradepost_signing.keys import PublicKey, SigningKey
from tradepost_signing.policy.revocation import RevocationDocument, encode_revocations
from tradepost_signing.policy.revocation_store import (
    RevocationStore,
    SignedRevocations,
    sign_revocations,
    verify_revocations,
)
from tradepost_signing.policy.trust import TrustPolicy
from tradepost_signing.testing import FakeSigstore

pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number:DeprecationWarning")
fixture_is_only_read = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

TRUST_KEY = TrustPolicy.of_key(KEY.public_key, name="alice")


def text(data: bytes) -> str:
    return data.decode(errors="replace")


def refused(error: TradepostError) -> None:
    event(f"outcome: {type(error).__name__}")


# Manifests


def manifest(version: str, *, kernel: bytes, fuel: int) -> Manifest:
    stages = (
        KernelStage(
            name="prepare",
            artifact=cid_of_block(kernel, "raw"),
            inputs={"x": "input.x"},
            outputs=("y",),
            fuel=fuel,
        ),
        ModelStage(
            name="model", artifact=cid_of_block(b"m", "raw"), inputs={"y": "prepare.y"}, outputs=("z",)
        ),
    )
    return Manifest(
        name="digits",
        version=version,
        inputs={"x": TensorSpec(dtype="U8", shape=(None,))},
        stages=stages,
        outputs={"z": "model.z"},
    )


MANIFEST = manifest("1", kernel=b"k", fuel=1_000_000)
BLOCK = encode_manifest(MANIFEST)
EVIL_BLOCK = encode_manifest(manifest("1", kernel=b"evil", fuel=9_000_000))
BLOCK_BUNDLE = sign_bytes(BLOCK, KEY)
MANIFEST_TREES = [dag_cbor.decode(block) for block in (BLOCK, EVIL_BLOCK)]


def test_the_original_manifest_is_accepted():
    TRUST_KEY.check_pipeline(decode_manifest(BLOCK), BLOCK, BLOCK_BUNDLE)


@pytest.mark.extended
@given(mutated(BLOCK, EVIL_BLOCK) | mutated_tree(*MANIFEST_TREES).map(dag_cbor.encode))
def test_no_mutated_manifest_is_accepted(data):
    """Not by its bytes, not under another's, not with the digest in the bundle put right."""
    try:
        read = decode_manifest(data)
    except InvalidPipeline as error:
        refused(error)
        return
    event("outcome: another pipeline, which nobody signed")
    assert encode_manifest(read) == data
    for block in (data, BLOCK):
        for bundle in (BLOCK_BUNDLE, with_digest_of(BLOCK_BUNDLE, data)):
            with pytest.raises(TradepostError):
                TRUST_KEY.check_pipeline(read, block, bundle)


# Policies

#: Not the stranger: that one is to be refused because nothing names it.
DENIED = cid_of_block(b"denied", "raw")


def policy(name: str, key: SigningKey, identity: SigstoreIdentity) -> bytes:
    return (
        f'deny = ["{DENIED}"]\ntrusted_root = "root.json"\n'
        f'[[publisher]]\nname = "{name}"\nkey_id = "{key.public_key.id}"\n'
        f'key = """\n{key.public_key.pem.decode()}"""\nmax_fuel = 2_000_000_000\n'
        f'[[identity]]\nname = "robot"\nissuer = "{identity.issuer}"\nsubject = "{identity.subject}"\n'
    ).encode()


ALICE = SigstoreIdentity(issuer="https://issuer.example", subject="alice@example.com")
SIGSTORE = FakeSigstore()
POLICY = policy("alice", KEY, ALICE)
OTTO = SigstoreIdentity(issuer=ALICE.issuer, subject="otto@example.com")
ORIGINAL_IDENTITIES = {ALICE, OTTO}
OTHER_POLICY = policy("otto", OTHER, OTTO)
STRANGE = [
    sign_bytes(BLOCK, STRANGER),
    sign_bytes(BLOCK, SIGSTORE.signer(SigstoreIdentity(issuer=ALICE.issuer, subject="mallory@example.com"))),
    sign_bytes(BLOCK, FakeSigstore().signer(ALICE)),
    *(
        sign_bytes(BLOCK, STRANGER).replace(STRANGER.public_key.hint, named.public_key.hint)
        for named in (KEY, OTHER)
    ),
]


def loaded(folder, data: bytes) -> TrustPolicy:
    (folder / "root.json").write_bytes(SIGSTORE.trusted_root())
    (folder / "trust.toml").write_bytes(data)
    return TrustPolicy.load(folder / "trust.toml")


def test_the_original_policy_is_accepted(tmp_path):
    assert loaded(tmp_path, POLICY).check_pipeline(MANIFEST, BLOCK, BLOCK_BUNDLE).name == "alice"


@pytest.mark.extended
@fixture_is_only_read
@given(data=mutated(POLICY, OTHER_POLICY))
def test_no_mutated_policy_trusts_a_stranger(tmp_path, data):
    """It is refused, or trusts whole keys of an original and the identities that it spells out, no others."""
    try:
        trust = loaded(tmp_path, data)
    except InvalidTrustPolicy as error:
        refused(error)
        return
    keys = [one.key for one in trust.publishers if isinstance(one.key, PublicKey)]
    identities = [one.key for one in trust.publishers if isinstance(one.key, SigstoreIdentity)]
    event(f"outcome: trusts {len(keys)} keys, {len(identities)} identities")
    event(f"identities of an original only: {ORIGINAL_IDENTITIES.issuperset(identities)}")
    written = tomllib.loads(data.decode())
    for key, entry in zip(keys, written.get("publisher", ()), strict=True):
        assert key in (KEY.public_key, OTHER.public_key)
        assert entry.get("key_id") in (None, key.id)
    spelt_out = [(entry["issuer"], entry["subject"]) for entry in written.get("identity", ())]
    assert [(one.issuer, one.subject) for one in identities] == spelt_out
    assert {*written.get("deny", ())} == trust.deny
    for bundle in STRANGE:
        with pytest.raises(TradepostError):
            trust.check_pipeline(MANIFEST, BLOCK, bundle)


# Revocation lists


def revocations(version: int, **changes: Any) -> SignedRevocations:
    return sign_revocations(revoking(version, **changes), KEY)


def revoking(version: int, **changes: Any) -> RevocationDocument:
    fields = {
        "issued_at": 1_700_000_000,
        "publishers": {OTHER.public_key.id: "stolen"},
        "cids": {cid_of_block(b"k", "raw"): "crashes"},
        "engines": {"wasmtime": "50.0.1"},
    }
    return RevocationDocument(version=version, **(fields | changes))


NEWEST, OLDER = revocations(12), revocations(11, publishers={}, engines={})
LIES = sign_revocations(revoking(13, cids={}), STRANGER)


@st.composite
def forged_revocations(draw: st.DrawFn) -> SignedRevocations:
    """The newest list with a change in its document, its bundle or both, or parts of other lists in it."""
    document = draw(
        st.just(NEWEST.document)
        | mutated(NEWEST.document, OLDER.document, LIES.document)
        | mutated_tree(*map(json.loads, (NEWEST.document, OLDER.document, LIES.document))).map(canonical)
    )
    others = (OLDER.bundle, LIES.bundle, BLOCK_BUNDLE)
    bundle = draw(
        st.sampled_from([NEWEST.bundle, with_digest_of(NEWEST.bundle, document), *others])
        | mutated(NEWEST.bundle.encode(), *(other.encode() for other in others)).map(text)
    )
    return SignedRevocations(document, bundle)


def canonical(tree: Any) -> bytes:
    """A list's document in the form that its reader asks for, of whatever is in it."""
    return json.dumps(tree, indent=1, sort_keys=False, ensure_ascii=False).encode() + b"\n"


@pytest.fixture(scope="module")
def enforcing(tmp_path_factory) -> RevocationStore:
    store = RevocationStore(tmp_path_factory.mktemp("revocations") / "list", KEY.public_key)
    assert store.accept(OLDER)
    assert store.accept(NEWEST)
    return store


def test_the_form_of_a_mutated_list_is_the_readers():
    assert canonical(json.loads(NEWEST.document)) == NEWEST.document == encode_revocations(revoking(12))


@pytest.mark.extended
@given(forged=forged_revocations().filter(lambda forged: forged != NEWEST))
def test_no_mutated_revocation_list_is_accepted(enforcing, forged):
    """Nor is one that was signed once and is older: what is enforced stays."""
    note(f"{NEWEST}")
    try:
        is_new = enforcing.accept(forged)
    except TradepostError as error:
        refused(error)
    else:
        event("outcome: the same list")
        assert not is_new
        assert forged.document == NEWEST.document
        assert_intact(forged.bundle, NEWEST.bundle)
    assert enforcing.signed == NEWEST


@pytest.mark.extended
@fixture_is_only_read
@given(data=st.data())
def test_no_mutated_store_revokes_less(tmp_path, data):
    path = tmp_path / "revocations"
    path.unlink(missing_ok=True)
    RevocationStore(path, KEY.public_key).accept(NEWEST)
    path.write_bytes(data.draw(mutated(path.read_bytes())))
    try:
        store = RevocationStore(path, KEY.public_key)
    except InvalidRevocations as error:
        refused(error)
        return
    event("outcome: the same list")
    assert store.current.document == verify_revocations(NEWEST, KEY.public_key).document
