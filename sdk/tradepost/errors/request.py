"""Errors about requests: their form, their credentials and their quotas."""

from __future__ import annotations

from tradepost.errors.base import Fault, TradepostError


class InvalidRequest(TradepostError):
    """The request is not well formed."""

    fault = Fault.SUBMITTER
    status = 400
    default_hint = "Correct what the detail names, and send the request again."


class InvalidCall(TradepostError):
    """The program called the library in a way that it does not support."""

    fault = Fault.SUBMITTER
    status = 400
    default_hint = "Correct the call in the program."


class ClientClosed(InvalidCall):
    """The client is not open."""

    default_hint = "Make calls inside `with Client(…)` or `async with AsyncClient(…)`."


class ClientFailed(TradepostError):
    """The client failed unexpectedly. Jobs that were submitted are unaffected."""

    fault = Fault.SUBMITTER
    status = 500
    default_hint = (
        "Open a new client; `tradepost jobs list` shows the jobs. "
        "If the detail names no cause on this machine, it is a defect in Tradepost: report it."
    )


class InvalidTensorDocument(TradepostError):
    """These bytes are not a tensor document (safetensors) within the limits."""

    fault = Fault.SUBMITTER
    status = 400
    default_hint = "Write it with `tradepost.pipeline.tensors.encode`, or with the safetensors package."


class InvalidInput(TradepostError):
    """The job's input does not match the inputs that the pipeline declares."""

    fault = Fault.SUBMITTER
    status = 400
    default_hint = "`tradepost jobs pipeline CID` prints the inputs that the pipeline declares."


class InlineInputTooLarge(TradepostError):
    """The inline input is larger than the broker accepts."""

    fault = Fault.SUBMITTER
    status = 413
    default_hint = "Upload it and submit its CID; the client does this automatically unless inline=True."


class Unauthorized(TradepostError):
    """The credentials are missing or invalid."""

    fault = Fault.SUBMITTER
    status = 401
    default_hint = "Set TRADEPOST_API_KEY, or ask the operator for a key (`tradepost broker account create`)."


class QuotaExceeded(TradepostError):
    """The account reached its limit of stored content or open jobs."""

    fault = Fault.SUBMITTER
    status = 429
    default_hint = "Wait until some jobs or uploads are finished, then try again."
