"""Blocks, CIDs, files and directories, and whoever delivers them."""

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
    default_hint = "Give it as `tradepost content cid` or `ipfs add --cid-version=1` prints it."


class ContentMismatch(TradepostError):
    """The bytes do not have the hash that their CID promises."""

    fault = Fault.NETWORK
    status = 502
    default_hint = "Fetch it again: the source that sent these bytes was put aside."


class ContentTooLarge(TradepostError):
    """The content is larger than its cap."""

    fault = Fault.SUBMITTER
    status = 413
    default_hint = "Take or send less, or ask whoever set the cap to raise it."


class ContentStoreFull(TradepostError):
    """The content store has no room left within its byte budget."""

    fault = Fault.OPERATOR
    status = 507
    default_hint = (
        "Give the store more bytes, or run `tradepost content unpin` and `gc` for what nobody needs."
    )


class InvalidDag(ContentMismatch):
    """These blocks are not what they claim to be: no such file or directory exists within the limits."""

    fault = Fault.PUBLISHER
    status = 422
    default_hint = "Ask whoever made it, not who sent it: every block has its hash."


class InvalidCar(TradepostError):
    """This is not a CAR (version 1) within the limits."""

    fault = Fault.SUBMITTER
    status = 400
    default_hint = "`ipfs dag export` and `tradepost content get --car` write what is read here."


class UnknownPath(TradepostError):
    """There is nothing at this path below the CID."""

    fault = Fault.SUBMITTER
    status = 404
    default_hint = "`tradepost content ls CID` lists what a directory holds."


class UnsafeName(TradepostError):
    """The directory has an entry that must not be written to a disk."""

    fault = Fault.PUBLISHER
    status = 422
    default_hint = "Get the entries you need by their paths, or ask the publisher to leave this one out."


class UnreadableContent(TradepostError):
    """This file or directory cannot be read."""

    fault = Fault.SUBMITTER
    status = 400
    default_hint = "Check that the path exists and that you may read and write there."


class NotAcceptable(TradepostError):
    """This gateway serves blocks and CARs, which can be checked, and no other format."""

    fault = Fault.SUBMITTER
    status = 406
    default_hint = "Ask with ?format=raw or ?format=car."


class RangeNotSatisfiable(TradepostError):
    """The range lies beyond the content."""

    fault = Fault.SUBMITTER
    status = 416
    default_hint = "Ask for a range within the size that the detail gives."


class SourceFailed(TradepostError):
    """A source of blocks did not deliver."""

    fault = Fault.NETWORK
    status = 502
    default_hint = "Try again later, or name another source."


class ContentUnavailable(TradepostError):
    """No source delivered this block."""

    fault = Fault.NETWORK
    status = 503
    default_hint = "What arrived is kept: fetch again and only what is missing is asked for."


class KuboFailed(SourceFailed):
    """The Kubo daemon cannot be reached, or refused the call."""

    fault = Fault.OPERATOR
    default_hint = "Is it running, with its API at this address? `ipfs id` tells."
