"""A whole Sigstore in memory, for tests: what it makes passes every check that the real one's does.

Only the network is left out. The `sigstore` package's own `Signer` runs against it, and its own `Verifier`
checks the result, against a trusted root that names this instance's keys.
"""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sigstore._internal.fulcio.client import FulcioCertificateSigningResponse
from sigstore._internal.rekor import EntryRequestBody
from sigstore._internal.rekor.client import RekorClient
from sigstore.models import TransparencyLogEntry, TrustedRoot
from sigstore.oidc import IdentityToken
from sigstore.sign import SigningContext
from sigstore_models.trustroot.v1 import TrustedRoot as TrustedRootModel

from tradepost_signing.keyless.identity import SigstoreIdentity
from tradepost_signing.keyless.signing import KeylessSigner
from tradepost_signing.testing.certificate_authority import CertificateAuthority
from tradepost_signing.testing.transparency_log import TransparencyLog


class FakeSigstore:
    """A Sigstore with keys of its own, founded an hour ago. It logs signatures with this delay.

    Certificates are of this moment, since the `sigstore` package's `Signer` looks at the clock.
    """

    def __init__(self, *, logging_delay: timedelta = timedelta(seconds=1)) -> None:
        self._founded = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
        self.authority = CertificateAuthority(self._founded)
        self.log = TransparencyLog()
        self._logging_delay = logging_delay

    def signer(self, identity: SigstoreIdentity) -> KeylessSigner:
        """Signs keyless as `identity`."""
        root = TrustedRoot(TrustedRootModel.from_json(self.trusted_root()))
        context = SigningContext(fulcio=_Fulcio(self), rekor=_Rekor(self), trusted_root=root)  # type: ignore[arg-type]
        return KeylessSigner(context, _token(identity))

    def trusted_root(self) -> bytes:
        """What a verifier needs to know of this instance (JSON)."""
        start = {"start": self._founded.isoformat().replace("+00:00", "Z")}
        root = {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [_log("https://rekor.example", self.log.public_key, start)],
            "certificateAuthorities": [
                {
                    "subject": {"organization": "sigstore.example", "commonName": "fake"},
                    "uri": "https://fulcio.example",
                    "certChain": {"certificates": [{"rawBytes": _base64(_certificate(self.authority.root))}]},
                    "validFor": start,
                }
            ],
            "ctlogs": [_log("https://ctfe.example", self.authority.log_public_key, start)],
        }
        return json.dumps(root).encode()

    def issue(self, public_key: ec.EllipticCurvePublicKey, identity: SigstoreIdentity) -> x509.Certificate:
        """A certificate for `identity`, valid from now on."""
        return self.authority.issue(public_key, identity, datetime.now(UTC).replace(microsecond=0))

    def add(self, body: bytes) -> dict[str, Any]:
        """The log's answer to a new entry."""
        return self.log.add(body, at=int((datetime.now(UTC) + self._logging_delay).timestamp()))


class _Fulcio:
    """Takes the identity in the token for proven."""

    def __init__(self, sigstore: FakeSigstore) -> None:
        self._sigstore = sigstore
        self.signing_cert = self

    def post(
        self, req: x509.CertificateSigningRequest, identity: IdentityToken
    ) -> FulcioCertificateSigningResponse:
        key = req.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        certificate = self._sigstore.issue(key, SigstoreIdentity(identity.issuer, identity.identity))
        return FulcioCertificateSigningResponse(certificate, [self._sigstore.authority.root])


class _Rekor(RekorClient):
    """Adds to the log in memory what would be sent."""

    def __init__(self, sigstore: FakeSigstore) -> None:
        super().__init__("https://rekor.example")
        self._sigstore = sigstore

    def create_entry(self, request: EntryRequestBody) -> TransparencyLogEntry:
        body = dict(request)
        if body["kind"] == "dsse":
            body["spec"] = _logged_envelope(body["spec"]["proposedContent"])
        canonical = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
        return TransparencyLogEntry._from_v1_response(self._sigstore.add(canonical))


def _logged_envelope(proposed: dict[str, Any]) -> dict[str, Any]:
    """What Rekor keeps of a DSSE envelope: hashes and signatures."""
    envelope = json.loads(proposed["envelope"])
    payload = base64.b64decode(envelope["payload"])
    return {
        "envelopeHash": _sha256(proposed["envelope"].encode()),
        "payloadHash": _sha256(payload),
        "signatures": [
            {"signature": one["sig"], "verifier": proposed["verifiers"][0]} for one in envelope["signatures"]
        ],
    }


def _token(identity: SigstoreIdentity) -> IdentityToken:
    """An OpenID Connect token; nobody here checks who signed it."""
    now = int(datetime.now(UTC).timestamp())
    claims = {"iss": identity.issuer, "sub": identity.subject, "aud": "sigstore"}
    validity = {"iat": now, "exp": now + 600}
    return IdentityToken(jwt.encode(claims | validity, "x" * 32, algorithm="HS256"))


def _log(url: str, key: bytes, valid_for: dict[str, str]) -> dict[str, Any]:
    return {
        "baseUrl": url,
        "hashAlgorithm": "SHA2_256",
        "publicKey": {
            "rawBytes": _base64(key),
            "keyDetails": "PKIX_ECDSA_P256_SHA_256",
            "validFor": valid_for,
        },
        "logId": {"keyId": _base64(hashlib.sha256(key).digest())},
    }


def _certificate(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def _sha256(data: bytes) -> dict[str, str]:
    return {"algorithm": "sha256", "value": hashlib.sha256(data).hexdigest()}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
