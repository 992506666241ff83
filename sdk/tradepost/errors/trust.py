"""Errors about signatures, trust policies and revocation lists."""

from __future__ import annotations

from tradepost.errors.base import Fault, TradepostError


class InvalidArtifact(TradepostError):
    """This file or directory cannot be signed or verified."""

    fault = Fault.PUBLISHER
    status = 422
    default_hint = "Use a file, or a directory that contains only plain files."


class InvalidSignature(TradepostError):
    """The signature does not match the artifact."""

    fault = Fault.PUBLISHER
    status = 422
    default_hint = "Do not use it. Get the artifact and its signature again from the signer."


class UnsignedArtifact(TradepostError):
    """The artifact has no signature."""

    fault = Fault.PUBLISHER
    status = 422
    default_hint = (
        "Sign files with `tradepost sign`, pipelines with `tradepost publish pipeline.toml --key KEY`."
    )


class InvalidBundle(InvalidSignature):
    """This is not a signature bundle in the supported format (Sigstore bundle v0.3)."""

    default_hint = "Use a bundle from `tradepost sign`, or one in the Sigstore format v0.3 from another tool."


class ExpiredSignature(InvalidSignature):
    """The signer's certificate was not valid when the signature was made."""

    default_hint = "Ask the publisher to sign it again: a keyless certificate is valid for minutes only."


class UntrustedSigner(TradepostError):
    """The trust policy does not name the signer."""

    fault = Fault.PUBLISHER
    status = 403
    default_hint = (
        "If you trust the signer, add the key or identity to the trust policy: "
        "`tradepost worker trust add`, on a device that lends."
    )


class UntrustedPipeline(UntrustedSigner):
    """The trust policy does not allow this pipeline."""

    fault = Fault.PUBLISHER
    status = 403
    default_hint = "Only device owners can allow it: ask them to add the publisher's key to their policy."


class Revoked(UntrustedSigner):
    """The market's operator has revoked this pipeline, artifact or signer."""

    default_hint = "Publish a version without the revoked part; ask the operator for the reason."


class InvalidRevocations(TradepostError):
    """This is not a revocation list signed by the operator."""

    fault = Fault.OPERATOR
    status = 422
    default_hint = "Sign it with `tradepost revocations sign` and the operator's key."


class RevocationRollback(InvalidRevocations):
    """The revocation list is not newer than the current list."""

    status = 409
    default_hint = "Give the list a higher version than the current list; old lists are never accepted again."


class InvalidTrustPolicy(TradepostError):
    """The trust policy file is not valid, so no publisher is trusted."""

    fault = Fault.WORKER
    status = 422
    default_hint = "Correct the file, and check it with `tradepost trust check`."


class InvalidKey(TradepostError):
    """The key file cannot be used."""

    fault = Fault.PUBLISHER
    status = 422
    default_hint = "Use an ECDSA P-256 key in PEM format; `tradepost keygen` creates one."


class SigstoreUnavailable(TradepostError):
    """Keyless signing needs the network, and Sigstore did not answer."""

    fault = Fault.NETWORK
    status = 503
    default_hint = "Try again with a network connection, or sign offline with a key (`tradepost keygen`)."


class IdentityRefused(TradepostError):
    """There is no identity to sign with, or Sigstore did not accept it."""

    fault = Fault.PUBLISHER
    status = 401
    default_hint = "Set SIGSTORE_IDENTITY_TOKEN, log in from a terminal, or sign with a key."
