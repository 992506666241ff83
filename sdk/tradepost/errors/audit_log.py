"""Errors about the audit log: its checkpoints, its proofs, and a history that was changed."""

from __future__ import annotations

from tradepost.errors.base import Fault, TradepostError


class InvalidProof(TradepostError):
    """The proof does not show that the audit log has the receipt."""

    fault = Fault.BROKER
    status = 422
    default_hint = "Do not rely on it. Fetch the proof again with `tradepost receipt proof`."


class InvalidCheckpoint(InvalidProof):
    """The checkpoint of the audit log is not valid."""

    default_hint = "Do not rely on it. Fetch it again: GET /v1/log/checkpoint."


class InvalidKeptCheckpoint(InvalidCheckpoint):
    """The checkpoint that was kept is not valid."""

    fault = Fault.SUBMITTER
    default_hint = (
        "Name the file that you kept, unchanged: a proof from `tradepost receipt proof`, or the text of "
        "GET /v1/log/checkpoint, of this broker."
    )


class LogRewritten(InvalidProof):
    """The audit log has another history than the checkpoint that was kept."""

    default_hint = (
        "Keep both checkpoints and the proof: both are signed, and show that the broker changed its log."
    )


class NotInLog(TradepostError):
    """No published checkpoint of the broker's log covers this."""

    fault = Fault.SUBMITTER
    status = 404
    default_hint = "Wait for the broker's next checkpoint, and try again."
