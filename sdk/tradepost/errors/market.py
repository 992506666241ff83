"""Jobs, and the credits that they cost."""

from __future__ import annotations

from tradepost.errors.base import Fault, TradepostError


class UnknownJob(TradepostError):
    """There is no such job for this account."""

    fault = Fault.SUBMITTER
    status = 404


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


class NotVerified(TradepostError):
    """The results that came back did not reach the job's confidence."""

    fault = Fault.MARKET
    status = 409
    default_hint = "Lower the confidence, raise max_price, or wait for more workers to prove themselves."


class DeadlineExceeded(TradepostError):
    """The job's deadline passed before a result was accepted."""

    fault = Fault.MARKET
    status = 504


class JobCancelled(TradepostError):
    """The job was cancelled by its submitter."""

    fault = Fault.SUBMITTER
    status = 409


class ResultTimeout(TradepostError):
    """The result did not arrive within the time given to result(). The job goes on."""

    fault = Fault.SUBMITTER
    status = 408
    default_hint = "Call result() again, or cancel()."
