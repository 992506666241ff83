"""The trust policy: a device's owner decides which publishers' pipelines may run, within which limits.

Nothing runs unless a publisher's entry allows it, and a denial wins over every entry. A refusal names the
rule that refused and the lines of the policy file that would allow it, so that the owner need not guess.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from tradepost.content import Cid, cid_of_block
from tradepost.errors import InvalidPipeline, Revoked, UntrustedPipeline, UntrustedSigner
from tradepost.pipeline.manifest import Manifest, encode_manifest
from tradepost_signing.checks.publisher import Publisher
from tradepost_signing.checks.verify import verify_pipeline
from tradepost_signing.keyless.identity import SigstoreIdentity
from tradepost_signing.keys import PublicKey, key_id_of_hint
from tradepost_signing.policy.policy_file import read_policy_file
from tradepost_signing.policy.revocation import RevocationList


@dataclass(frozen=True, slots=True)
class TrustPolicy:
    """The trusted publishers. `source` is the file that the owner edits, for messages.

    `deny` holds ids of publishers, and CIDs. `trusted_root` is Sigstore's (JSON), against which
    certificates are checked; `None` stands for the one that the `sigstore` package carries. What is in
    `revocations` is refused as if it were denied. `files` are those that it was read from: where one of them
    changes, it is out of date.
    """

    publishers: tuple[Publisher, ...] = ()
    deny: frozenset[str] = frozenset()
    source: str = "the trust policy"
    trusted_root: bytes | None = None
    revocations: RevocationList | None = None
    files: tuple[Path, ...] = ()

    @classmethod
    def load(cls, path: Path) -> TrustPolicy:
        """The policy in the TOML file at `path`; one that trusts nobody if there is no such file.

        Raises `InvalidTrustPolicy`.
        """
        publishers, deny, trusted_root, files = read_policy_file(path)
        return cls(publishers=publishers, deny=deny, source=str(path), trusted_root=trusted_root, files=files)

    @classmethod
    def of_key(cls, key: PublicKey, *, name: str) -> TrustPolicy:
        """A policy that trusts one key without limits."""
        return cls(publishers=(Publisher(name=name, key=key),), source=name)

    @classmethod
    def of_identity(cls, identity: SigstoreIdentity, *, trusted_root: bytes | None = None) -> TrustPolicy:
        """A policy that trusts one keyless identity without limits."""
        name = identity.subject
        return cls(publishers=(Publisher(name=name, key=identity),), source=name, trusted_root=trusted_root)

    def enforcing(self, revocations: RevocationList | None) -> TrustPolicy:
        """This policy with the operator's revocations in force; `None` for none."""
        return replace(self, revocations=revocations)

    def publisher_by_hint(self, hint: str) -> Publisher:
        """The publisher whose key a bundle names by `hint`. Raises `UntrustedSigner`."""
        for publisher in self.publishers:
            key = publisher.key
            if isinstance(key, PublicKey) and hint in (key.hint, key.directory_hint):
                self._refuse(key.id, f"the key of {publisher.name!r}")
                return publisher
        key_id = key_id_of_hint(hint)
        if key_id is not None:
            self._refuse(key_id, "its key")
        raise UntrustedSigner(
            f"it is signed by key {key_id or repr(hint[:64])}, which {self.source} does not name",
            hint=_lines_to_trust_key(self.source, key_id),
            rule="publisher",
            key_id=key_id,
        )

    def publisher_by_identity(self, identity: SigstoreIdentity) -> Publisher:
        """The publisher that signs with this keyless identity. Raises `UntrustedSigner`."""
        self._refuse(identity.id, f"its signer, {identity},")
        for publisher in self.publishers:
            if publisher.key == identity:
                return publisher
        raise UntrustedSigner(
            f"it is signed by {identity}, which {self.source} does not name",
            hint=_lines_to_trust_identity(self.source, identity),
            rule="publisher",
            **identity.facts(),
        )

    def refuse_denied(self, cid: Cid) -> None:
        """Raise `UntrustedSigner` if the artifact at `cid` is denied, `Revoked` if it is revoked."""
        self._refuse(cid, "it")

    def check_pipeline(self, manifest: Manifest, manifest_block: bytes, bundle: str) -> Publisher:
        """The publisher on whose word this pipeline may run, once these steps have passed:

        1. `manifest` is what `manifest_block` says.
        2. Neither the pipeline nor any kernel or model in it is denied or revoked.
        3. A trusted publisher signed the block: the steps of `verify_pipeline`.
        4. The pipeline stays within that publisher's limits.

        Raises `InvalidPipeline` (1), `UntrustedPipeline` (2, 3, 4), `Revoked` (2, 3) or another error of
        `verify_pipeline` (3).
        The error says which rule refused; its hint gives the TOML lines that would allow it.
        """
        # Step 1
        if encode_manifest(manifest) != manifest_block:
            raise InvalidPipeline("the manifest does not match its block")
        pipeline = cid_of_block(manifest_block, "dag-cbor")
        try:
            # Step 2
            for cid in (pipeline, *manifest.artifacts()):
                self.refuse_denied(cid)
            # Step 3
            publisher = verify_pipeline(manifest_block, bundle, self).publisher
        except Revoked:
            raise
        except UntrustedSigner as error:
            raise UntrustedPipeline(
                error.detail, hint=error.hint, **error.facts | {"pipeline": pipeline}
            ) from None
        # Step 4
        if breach := publisher.first_breach(manifest):
            raise UntrustedPipeline(
                f"{breach.rule} does not allow it: {breach.asks}",
                stage=breach.stage,
                hint=f"To allow it, set for publisher {publisher.name!r} in {self.source}:\n\n{breach.line}",
                rule=breach.rule,
                **publisher.key.facts(),
                pipeline=pipeline,
            )
        return publisher

    def _refuse(self, entry: str, what: str) -> None:
        if entry in self.deny:
            raise UntrustedSigner(
                f"{what} is denied by {self.source}",
                hint=f'To allow it, remove "{entry}" from deny in {self.source}.',
                rule="deny",
                denied=entry,
            )
        if self.revocations is not None:
            self.revocations.refuse(entry, what)


def _lines_to_trust_key(source: str, key_id: str | None) -> str:
    lines = ["[[publisher]]", 'name = "PUBLISHER"', 'key = "PUBLISHER.pub"']
    if key_id is not None:
        lines.append(f'key_id = "{key_id}"')
    return "\n".join(
        [f"To trust it, get the public key file from the publisher and add to {source}:", "", *lines]
    )


def _lines_to_trust_identity(source: str, identity: SigstoreIdentity) -> str:
    issuer, subject = (json.dumps(text, ensure_ascii=False) for text in (identity.issuer, identity.subject))
    lines = ["[[identity]]", 'name = "PUBLISHER"', f"issuer = {issuer}", f"subject = {subject}"]
    return "\n".join(
        [f"To trust it, ask the publisher to confirm this identity, and add to {source}:", "", *lines]
    )
