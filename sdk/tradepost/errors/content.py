"""Errors about blocks, CIDs, files and directories, and the sources that deliver them."""

from __future__ import annotations

from tradepost.errors.base import Fault, TradepostError


class UnknownCid(TradepostError):
    """No source has the block with this CID."""

    fault = Fault.SUBMITTER
    status = 404
    default_hint = "Check the CID, or upload the artifact first (`tradepost publish`, or submit it inline)."


class InvalidCid(TradepostError):
    """This is not a CID that Tradepost accepts (CIDv1, sha2-256)."""

    fault = Fault.SUBMITTER
    status = 400
    default_hint = "Use a CID in the form that `tradepost content cid` or `ipfs add --cid-version=1` prints."


class ContentMismatch(TradepostError):
    """The bytes do not match the hash in their CID."""

    fault = Fault.NETWORK
    status = 502
    default_hint = "Fetch it again: the source that sent these bytes will not be used for a while."


class UploadMismatch(ContentMismatch):
    """The uploaded bytes do not match the hash in the CID that they were sent for."""

    fault = Fault.SUBMITTER
    status = 400
    default_hint = "Compute the CID from the bytes that you send, and send both again."


class ContentTooLarge(TradepostError):
    """The content is larger than its limit."""

    fault = Fault.SUBMITTER
    status = 413
    default_hint = "Send or fetch less content, or raise the limit that the detail names."


class ContentStoreFull(TradepostError):
    """The content store has no space left within its byte budget."""

    fault = Fault.OPERATOR
    status = 507
    default_hint = "Raise the store's byte budget, or free space with `tradepost content unpin` and `gc`."


class ContentStoreUnusable(TradepostError):
    """The content store cannot be read or written."""

    fault = Fault.OPERATOR
    status = 500
    default_hint = "Make its folder one that this user can write, or name another one with --store."


class InvalidDag(ContentMismatch):
    """These blocks do not form a valid file or directory within the limits."""

    fault = Fault.PUBLISHER
    status = 422
    default_hint = "The publisher's data is malformed; downloading it again will not help."


class InvalidCar(TradepostError):
    """This is not a CAR (version 1) within the limits."""

    fault = Fault.SUBMITTER
    status = 400
    default_hint = "Write the CAR with `ipfs dag export` or `tradepost content get --car`."


class UnknownPath(TradepostError):
    """The content of this CID has no entry at this path."""

    fault = Fault.SUBMITTER
    status = 404
    default_hint = "List the directory's entries with `tradepost content ls CID`."


class UnsafeName(TradepostError):
    """The directory has an entry that is not safe to write to disk."""

    fault = Fault.PUBLISHER
    status = 422
    default_hint = "Get the entries you need by their paths, or ask the publisher to remove this entry."


class UnreadableContent(TradepostError):
    """This file or directory cannot be read."""

    fault = Fault.SUBMITTER
    status = 400
    default_hint = "Check that the path exists and that you have permission to read and write it."


class NotAcceptable(TradepostError):
    """This gateway serves only blocks and CARs, because clients can verify these formats."""

    fault = Fault.SUBMITTER
    status = 406
    default_hint = "Request ?format=raw or ?format=car."


class RangeNotSatisfiable(TradepostError):
    """The range is outside the content."""

    fault = Fault.SUBMITTER
    status = 416
    default_hint = "Request a range within the size that the detail gives."


class SourceFailed(TradepostError):
    """A source of blocks failed."""

    fault = Fault.NETWORK
    status = 502
    default_hint = "Try again later, or use another source."


class ContentUnavailable(TradepostError):
    """No source delivered this block."""

    fault = Fault.NETWORK
    status = 503
    default_hint = "Fetch it again: blocks that arrived are stored, and only the missing ones are requested."


class KuboFailed(SourceFailed):
    """The Kubo daemon cannot be reached, or returned an error."""

    fault = Fault.OPERATOR
    default_hint = "Check with `ipfs id` that the daemon is running and that its API has this address."
