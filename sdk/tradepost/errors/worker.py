"""Workers, their leases and their devices."""

from __future__ import annotations

from tradepost.errors.base import Fault, TradepostError


class UnknownWorker(TradepostError):
    """No worker with this id has joined."""

    fault = Fault.SUBMITTER
    status = 404
    default_hint = "`tradepost broker workers` lists those that have joined."


class InvalidJoinToken(TradepostError):
    """The join token is unknown, used up or expired."""

    fault = Fault.WORKER
    status = 401
    default_hint = "Ask the operator for a new one: `tradepost broker token`."


class InvalidReceipt(TradepostError):
    """The receipt is not what this lease allows."""

    fault = Fault.WORKER
    status = 422
    default_hint = "Do not count on it: get the job's receipts from the broker again."


class LeaseGone(TradepostError):
    """The lease is no longer open, so its result is not wanted."""

    fault = Fault.WORKER
    status = 410
    default_hint = "Nothing to do: the job was leased again after the deadline. This harms no reputation."


class LeaseTimeout(TradepostError):
    """The pipeline did not finish within its wall-clock limit."""

    fault = Fault.PUBLISHER
    status = 504
    default_hint = "Raise limits.wall_ms in pipeline.toml, or make the stage faster."


class PipelineTooCostly(TradepostError):
    """This pipeline takes more memory or time than this device, or its compiler, can give."""

    fault = Fault.MARKET
    status = 409
    default_hint = "A device with more memory may run it; a smaller artifact fits more devices."


class WorkerLost(TradepostError):
    """Every worker that took the job went away or gave it back."""

    fault = Fault.WORKER
    status = 502
    default_hint = "Submit again later; nothing was charged."


class RunnerFailed(TradepostError):
    """The process that runs pipelines ended unexpectedly."""

    fault = Fault.WORKER
    status = 502
    default_hint = "`tradepost worker doctor` on that device looks for the cause."


class RunnerInterrupted(RunnerFailed):
    """The process that runs pipelines ended because of something else than this run."""


class SandboxUnavailable(TradepostError):
    """This device cannot give the isolation that was asked for."""

    fault = Fault.WORKER
    status = 501
    default_hint = "`tradepost worker doctor` names what is missing, and the fix."
