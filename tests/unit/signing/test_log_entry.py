"""What the `sigstore` package leaves open: labels in a log entry, and when a root's keys were at work."""

import base64
import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from tradepost.errors import InvalidSignature
from tradepost_signing.bundles.bundle import read_bundle, sign_bytes
from tradepost_signing.checks.verify import verify_artifact
from tradepost_signing.keyless.identity import SigstoreIdentity
from tradepost_signing.keyless.log_entry import check_log_entry
from tradepost_signing.policy.trust import TrustPolicy
from tradepost_signing.testing import FakeSigstore
from tradepost_signing.testing.transparency_log import TransparencyLog

pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number:DeprecationWarning")

ARTIFACT = b"an artifact"
ALICE = SigstoreIdentity(issuer="https://issuer.example", subject="alice@example.com")
SIGSTORE = FakeSigstore()
ROOT = SIGSTORE.trusted_root()
BUNDLE = sign_bytes(ARTIFACT, SIGSTORE.signer(ALICE))
ENTRY = json.loads(BUNDLE)["verificationMaterial"]["tlogEntries"][0]
(ENTRY_READ,) = read_bundle(BUNDLE).verification_material.tlog_entries
CHECKPOINT = ENTRY["inclusionProof"]["checkpoint"]["envelope"]
SIGNATURE_LINE = CHECKPOINT.splitlines()[-1] + "\n"


def verify(bundle: str = BUNDLE, root: bytes = ROOT) -> None:
    verify_artifact(ARTIFACT, bundle, TrustPolicy.of_identity(ALICE, trusted_root=root))


def with_checkpoint(envelope: str) -> str:
    tree = json.loads(BUNDLE)
    tree["verificationMaterial"]["tlogEntries"][0]["inclusionProof"]["checkpoint"]["envelope"] = envelope
    return json.dumps(tree)


def test_the_place_in_the_log_is_the_one_that_the_log_signed():
    """In some smaller tree another leaf's path has the same hashes on the same side: here the last leaf's."""
    tree = json.loads(BUNDLE)
    proof = tree["verificationMaterial"]["tlogEntries"][0]["inclusionProof"]
    assert (proof["logIndex"], proof["treeSize"]) == ("2", "3")
    proof.update(logIndex="1", treeSize="2")
    with pytest.raises(InvalidSignature, match="2 entries"):
        verify(json.dumps(tree))


@pytest.mark.parametrize(
    "envelope",
    [
        CHECKPOINT + "3\n",
        CHECKPOINT + SIGNATURE_LINE,
        CHECKPOINT + SIGNATURE_LINE.replace(" rekor", " again"),
        CHECKPOINT.replace("\N{EM DASH}", "3 \N{EM DASH}"),
        CHECKPOINT.replace("\n\N{EM DASH}", "\n\n\N{EM DASH}"),
        CHECKPOINT[:-9] + "!" + CHECKPOINT[-9:],
        CHECKPOINT.replace("rekor.example ", "rekor+example "),
        CHECKPOINT + "\N{EM DASH} witness AAAA\v\n",
    ],
    ids=["noise", "twice", "twice renamed", "prefix", "blank", "spelling", "name", "line end"],
)
def test_below_the_checkpoint_stand_signatures_only(envelope):
    assert envelope != CHECKPOINT
    with pytest.raises(InvalidSignature, match="checkpoint"):
        verify(with_checkpoint(envelope))


def test_the_names_on_the_checkpoint_and_further_signatures_are_labels():
    witness = base64.b64encode(b"another key's signature").decode()
    verify(with_checkpoint(CHECKPOINT + f"\N{EM DASH} witness.example {witness}\n"))
    verify(with_checkpoint(CHECKPOINT.replace(" rekor.example ", " another.example ")))


def test_what_no_promise_signs_is_no_time_and_no_index():
    """Without a promise the time is that of a timestamp, which these entries might come with."""
    check_log_entry(ENTRY_READ)
    assert ENTRY_READ.inclusion_promise is not None
    timeless = ENTRY_READ.model_copy(update={"inclusion_promise": None, "integrated_time": None})
    check_log_entry(timeless)
    check_log_entry(timeless.model_copy(update={"integrated_time": 0}))
    with pytest.raises(InvalidSignature, match="the index 7, but its proof is for 2"):
        check_log_entry(timeless.model_copy(update={"log_index": 7}))
    for change in ({"inclusion_promise": None}, {"integrated_time": None}, {"integrated_time": 0}):
        with pytest.raises(InvalidSignature, match="time"):
            check_log_entry(ENTRY_READ.model_copy(update=change))


def ended(part: str, *, minutes: int) -> bytes:
    """The trusted root, in which the one key of this part is retired this long after it was founded."""
    root = json.loads(ROOT)
    (member,) = root[part]
    period = member.get("publicKey", member)["validFor"]
    end = datetime.fromisoformat(period["start"]) + timedelta(minutes=minutes)
    period["end"] = end.isoformat()
    return json.dumps(root).encode()


@pytest.mark.parametrize("part", ["tlogs", "ctlogs", "certificateAuthorities"])
def test_a_retired_key_vouches_for_nothing_new(part):
    """The bundle is of an hour after the key was made."""
    verify(root=ended(part, minutes=90))
    with pytest.raises(InvalidSignature):
        verify(root=ended(part, minutes=30))


def test_this_devices_clock_plays_no_part(monkeypatch):
    """One without a battery begins in 1970, before there was any Sigstore."""
    stopped = SimpleNamespace(now=lambda _zone: datetime(1970, 1, 1, tzinfo=UTC))
    monkeypatch.setattr("sigstore._utils.datetime", stopped)
    verify()


def test_a_log_signs_in_no_other_logs_name(monkeypatch):
    """The ids of newer logs are no hashes of their keys, and then `sigstore` takes any log's signature."""
    monkeypatch.setattr(TransparencyLog, "id", b"the id of some newer log, 32 byte")
    bundle = sign_bytes(ARTIFACT, SIGSTORE.signer(ALICE))
    root = json.loads(ROOT)
    newer = json.loads(FakeSigstore().trusted_root())["tlogs"][0]
    newer["logId"]["keyId"] = base64.b64encode(SIGSTORE.log.id).decode()
    root["tlogs"].append(newer)
    with pytest.raises(InvalidSignature, match="keyring"):
        verify(bundle, json.dumps(root).encode())
