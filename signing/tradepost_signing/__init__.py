"""Signing and trust: keys and identities, Sigstore bundles, trust policies, revocations, publishing.

A worker needs `TrustPolicy` and `RevocationStore`, a broker `claimed_publishers` and `RevocationList`; the
rest serves the commands. The rooms, lowest first: `keys` and `keyless`, `bundles`, `checks`, `policy`,
`publishing`, `commands`.
"""

from tradepost_signing.bundles.bundle import read_bundle, read_bundles, sign_bytes, sign_file
from tradepost_signing.checks.publisher import Publisher
from tradepost_signing.checks.verify import Verified, claimed_publishers, verify_artifact, verify_file
from tradepost_signing.keyless.identity import SigstoreIdentity
from tradepost_signing.keyless.signing import KeylessSigner
from tradepost_signing.keys import PublicKey, SigningKey
from tradepost_signing.policy.policy_file import add_publisher
from tradepost_signing.policy.revocation import RevocationList
from tradepost_signing.policy.revocation_store import (
    RevocationStore,
    SignedRevocations,
    sign_revocations,
    verify_revocations,
)
from tradepost_signing.policy.trust import TrustPolicy

__all__ = [
    "KeylessSigner",
    "PublicKey",
    "Publisher",
    "RevocationList",
    "RevocationStore",
    "SignedRevocations",
    "SigningKey",
    "SigstoreIdentity",
    "TrustPolicy",
    "Verified",
    "add_publisher",
    "claimed_publishers",
    "read_bundle",
    "read_bundles",
    "sign_bytes",
    "sign_file",
    "sign_revocations",
    "verify_artifact",
    "verify_file",
    "verify_revocations",
]
