"""Signatures, and whom a trust policy or a revocation list lets in."""

from __future__ import annotations

from tradepost.errors.base import Fault, TradepostError


class InvalidArtifact(TradepostError):
    """This file or directory cannot be signed or verified."""

    fault = Fault.PUBLISHER
    status = 422
    default_hint = "Name a file, or a directory that holds plain files only."


class InvalidSignature(TradepostError):
    """The signature does not match the artifact."""

    fault = Fault.PUBLISHER
    status = 422
    default_hint = "Do not use it: get it again, with its signature, from whoever signed it."


class UnsignedArtifact(TradepostError):
    """The artifact carries no signature."""

    fault = Fault.PUBLISHER
    status = 422
    default_hint = "Sign it: `tradepost publish pipeline.toml --key KEY`."


class InvalidBundle(InvalidSignature):
    """This is not a signature bundle that Tradepost reads (Sigstore bundle v0.3)."""

    default_hint = "Give what `tradepost sign` wrote, or another tool's bundle in the Sigstore format v0.3."


class ExpiredSignature(InvalidSignature):
    """The signer's certificate was not valid when the signature was made."""

    default_hint = "Have the publisher sign it again: a keyless certificate is valid for minutes."


class UntrustedSigner(TradepostError):
    """The trust policy does not name whoever made this signature."""

    fault = Fault.PUBLISHER
    status = 403
    default_hint = "If you trust them, name their key or identity in the trust policy; see docs/signing.md."


class UntrustedPipeline(UntrustedSigner):
    """The trust policy does not allow this pipeline."""

    fault = Fault.PUBLISHER
    status = 403
    default_hint = "A worker's owner decides whose code runs: ask owners to add the publisher's key."


class Revoked(UntrustedSigner):
    """The market's operator has revoked this."""

    default_hint = "Publish again, without what was revoked; the operator says why."


class InvalidRevocations(TradepostError):
    """This is not a revocation list that the operator has signed."""

    fault = Fault.OPERATOR
    status = 422
    default_hint = "`tradepost revocations sign` makes one, with the operator's key; see docs/signing.md."


class RevocationRollback(InvalidRevocations):
    """The revocation list is not newer than the one that is enforced."""

    status = 409
    default_hint = "Give the list a higher version: they only rise, so that nobody can bring back an old one."


class InvalidTrustPolicy(TradepostError):
    """The trust policy file is not valid, so nothing is trusted."""

    fault = Fault.WORKER
    status = 422
    default_hint = "Correct it until `tradepost trust check` accepts it."


class InvalidKey(TradepostError):
    """The key file cannot be used."""

    fault = Fault.PUBLISHER
    status = 422
    default_hint = "Give an ECDSA P-256 key in PEM; `tradepost keygen` makes one."


class SigstoreUnavailable(TradepostError):
    """Keyless signing needs the network, and Sigstore did not answer."""

    fault = Fault.NETWORK
    status = 503
    default_hint = "Try again online, or sign with a key, which needs no network: `tradepost keygen`."


class IdentityRefused(TradepostError):
    """There is no identity to sign with, or Sigstore did not accept it."""

    fault = Fault.PUBLISHER
    status = 401
    default_hint = "Set SIGSTORE_IDENTITY_TOKEN, use a terminal to sign in, or sign with a key."
