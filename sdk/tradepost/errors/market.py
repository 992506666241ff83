"""Errors about jobs and their credits."""

from __future__ import annotations

from tradepost.errors.base import Fault, TradepostError


class UnknownJob(TradepostError):
    """There is no such job for this account."""

    fault = Fault.SUBMITTER
    status = 404
    default_hint = "Check the job's id, and that the API key belongs to the account that submitted the job."


class IdempotencyConflict(TradepostError):
    """This idempotency key was already used for a different job."""

    fault = Fault.SUBMITTER
    status = 409
    default_hint = "Use a new key for each different job; without a key, the client generates one."


class TransferConflict(TradepostError):
    """This transfer id was already used for another account or amount."""

    fault = Fault.OPERATOR
    status = 409
    default_hint = (
        "Use a new --transfer id for each payment; repeat one only with the same account and amount."
    )


class TreasuryExhausted(TradepostError):
    """The treasury does not hold this many credits."""

    fault = Fault.OPERATOR
    status = 409
    default_hint = "Give a smaller amount, or create join tokens with a smaller --stake."


class InsufficientFunds(TradepostError):
    """The account's available credits do not cover the price cap."""

    fault = Fault.SUBMITTER
    status = 402
    default_hint = "Fund the account, lower max_price, or wait for running jobs to settle."


class PriceCapTooLow(TradepostError):
    """The price cap is below the price of every standing offer for this job."""

    fault = Fault.MARKET
    status = 409
    default_hint = "Raise max_price, or lower the confidence so that the job needs fewer replicas."


class NoEligibleWorker(TradepostError):
    """No worker with the capabilities that this job requires has a standing offer."""

    fault = Fault.MARKET
    status = 409
    default_hint = "Require less memory, less isolation or other providers, or wait for more workers."


class PipelineQuarantined(TradepostError):
    """Jobs of this account on this pipeline failed on all workers that tried them."""

    fault = Fault.SUBMITTER
    status = 409
    default_hint = (
        "Test the pipeline and the input on a device of your own. Then lift the quarantine with "
        "`tradepost jobs lift-quarantine PIPELINE`."
    )


class NotVerified(TradepostError):
    """The credibility of the results did not reach the job's confidence."""

    fault = Fault.MARKET
    status = 409
    default_hint = "Lower the confidence, raise max_price, or wait until more workers have passed checks."


class DeadlineExceeded(TradepostError):
    """The job's deadline passed before a result was accepted."""

    fault = Fault.MARKET
    status = 504
    default_hint = "Set a longer deadline_s, or raise max_price to reach more workers."


class JobCancelled(TradepostError):
    """The job was cancelled by its submitter."""

    fault = Fault.SUBMITTER
    status = 409
    default_hint = "Submit it again if you still need the result; what was not begun is refunded."


class ResultWithdrawn(TradepostError):
    """The job's result was accepted, and was found wrong or in doubt later. What was paid is refunded."""

    fault = Fault.MARKET
    status = 409
    default_hint = "Do not use the result that you got before. Submit the job again if you still need it."


class ResultTimeout(TradepostError, TimeoutError):
    """The result did not arrive within the timeout of result(). The job continues."""

    fault = Fault.SUBMITTER
    status = 408
    default_hint = "Call result() again, or call cancel()."
