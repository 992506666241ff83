"""What a request may hold, who may send it and how much."""

from __future__ import annotations

from tradepost.errors.base import Fault, TradepostError


class InvalidRequest(TradepostError):
    """The request is not well formed."""

    fault = Fault.SUBMITTER
    status = 400
    default_hint = "Correct what the detail names and ask again."


class InvalidTensorDocument(TradepostError):
    """These bytes are not a tensor document (safetensors) within the limits."""

    fault = Fault.SUBMITTER
    status = 400
    default_hint = "Write it with `tradepost.pipeline.tensors.encode`, or with the safetensors package."


class InvalidInput(TradepostError):
    """The job's input does not fit what the pipeline declares."""

    fault = Fault.SUBMITTER
    status = 400
    default_hint = "`tradepost jobs pipeline CID` shows the inputs that the pipeline declares."


class InlineInputTooLarge(TradepostError):
    """The inline input is larger than the broker takes."""

    fault = Fault.SUBMITTER
    status = 413
    default_hint = "Upload it first and submit by CID; the client does so by itself unless inline=True."


class Unauthorized(TradepostError):
    """The credentials are missing or were refused."""

    fault = Fault.SUBMITTER
    status = 401
    default_hint = "Set TRADEPOST_API_KEY, or ask the operator for a key (`tradepost broker account create`)."


class QuotaExceeded(TradepostError):
    """A limit on what one account may store or keep open was reached."""

    fault = Fault.SUBMITTER
    status = 429
    default_hint = "Wait until some of it is finished, then try again."
