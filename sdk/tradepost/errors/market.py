"""Jobs, and the credits that they cost."""

from __future__ import annotations

from tradepost.errors.base import Fault, TradepostError


class UnknownJob(TradepostError):
    """There is no such job for this account."""

    fault = Fault.SUBMITTER
    status = 404
    default_hint = "Check the job's id, and that the API key is of the account that submitted it."


class IdempotencyConflict(TradepostError):
    """This idempotency key was already used for a different job."""

    fault = Fault.SUBMITTER
    status = 409
    default_hint = "Use a fresh key for each different job; the client makes one when you give none."


class InsufficientFunds(TradepostError):
    """The account's available credits do not cover the price cap."""

    fault = Fault.SUBMITTER
    status = 402
    default_hint = "Fund the account, lower max_price, or wait for running jobs to settle."


class PriceCapTooLow(TradepostError):
    """The price cap is below what any standing offer asks for this job."""

    fault = Fault.MARKET
    status = 409
    default_hint = "Raise max_price, or lower the confidence, which needs fewer replicas."


class NoEligibleWorker(TradepostError):
    """No worker with the capability that this job needs has a standing offer."""

    fault = Fault.MARKET
    status = 409
    default_hint = "Ask for less memory or isolation or for other providers, or wait for more workers."


class NotVerified(TradepostError):
    """The results that came back did not reach the job's confidence."""

    fault = Fault.MARKET
    status = 409
    default_hint = "Lower the confidence, raise max_price, or wait for more workers to prove themselves."


class DeadlineExceeded(TradepostError):
    """The job's deadline passed before a result was accepted."""

    fault = Fault.MARKET
    status = 504
    default_hint = "Give it a later deadline_s, or raise max_price to reach more workers."


class JobCancelled(TradepostError):
    """The job was cancelled by its submitter."""

    fault = Fault.SUBMITTER
    status = 409
    default_hint = "Submit it again if the result is still wanted; what was reserved is free again."


class ResultTimeout(TradepostError):
    """The result did not arrive within the time given to result(). The job goes on."""

    fault = Fault.SUBMITTER
    status = 408
    default_hint = "Call result() again, or cancel()."
