"""Signing and trust: publishers' keys, Sigstore bundles, the owner's trust policy, and publishing.

Broker and worker need `TrustPolicy` and `verify_artifact`; the rest serves `tradepost keygen`, `sign`,
`verify` and `publish`.
"""

from tradepost_signing.bundle import read_bundle, sign_bytes, sign_file
from tradepost_signing.keys import PublicKey, SigningKey
from tradepost_signing.policy_file import add_publisher
from tradepost_signing.publisher import Publisher
from tradepost_signing.trust import TrustPolicy
from tradepost_signing.verify import Verified, verify_artifact, verify_file

__all__ = [
    "PublicKey",
    "Publisher",
    "SigningKey",
    "TrustPolicy",
    "Verified",
    "add_publisher",
    "read_bundle",
    "sign_bytes",
    "sign_file",
    "verify_artifact",
    "verify_file",
]
