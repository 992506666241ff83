"""Errors about workers, their leases and their devices."""

from __future__ import annotations

from tradepost.errors.base import Fault, TradepostError


class UnknownWorker(TradepostError):
    """No worker with this id has joined."""

    fault = Fault.SUBMITTER
    status = 404
    default_hint = "List the workers that have joined with `tradepost broker workers`."


class InvalidJoinToken(TradepostError):
    """The join token is unknown, already used or expired."""

    fault = Fault.WORKER
    status = 401
    default_hint = "Ask the operator for a new token (`tradepost broker token`)."


class InvalidReceipt(TradepostError):
    """The receipt is not valid for this lease."""

    fault = Fault.WORKER
    status = 422
    default_hint = "Do not rely on it. Get the job's receipts from the broker again."


class OtherInput(InvalidReceipt):
    """The job ran on another input than the one that the program named."""

    fault = Fault.SUBMITTER
    default_hint = (
        "Check the job's id and input_cid against what was kept of the submission. If both are right, do not "
        "rely on the result: the broker sent the receipts of another job."
    )


class WorkerKeyInUse(TradepostError):
    """Another device is connected with this worker's key."""

    fault = Fault.OPERATOR
    status = 409
    default_hint = (
        "Its state folder was copied. Stop one of the devices, and join it anew: "
        "tradepost worker uninstall, then tradepost worker join with a new token."
    )


class LeaseGone(TradepostError):
    """The lease is no longer open, so its result is not accepted."""

    fault = Fault.WORKER
    status = 410
    default_hint = "No action needed: the job was leased again after the deadline. Reputation is unaffected."


class LeaseTimeout(TradepostError):
    """The pipeline did not finish within its wall-clock limit."""

    fault = Fault.PUBLISHER
    status = 504
    default_hint = "Raise limits.wall_ms in pipeline.toml, or make the stage faster."


class PipelineTooCostly(TradepostError):
    """This pipeline needs more memory or time than this device or its compiler provides."""

    fault = Fault.MARKET
    status = 409
    default_hint = "Run it on a device with more memory, or make the artifact smaller."


class InputTooCostly(TradepostError):
    """This input needs more memory than the pipeline's limit, or the device, provides."""

    fault = Fault.SUBMITTER
    status = 422
    default_hint = "Use a smaller input, or ask the publisher for a larger limit of memory."


class WorkerLost(TradepostError):
    """Every worker that got the job disconnected, failed or gave it back."""

    fault = Fault.WORKER
    status = 502
    default_hint = "Submit again later; nothing was charged."


class DeviceBusy(TradepostError):
    """The device already runs as many leases as it may at the same time."""

    fault = Fault.MARKET
    status = 503
    default_hint = "No action needed: the job goes to another worker, and reputation is unaffected."


class RunnerFailed(TradepostError):
    """The runner process ended unexpectedly."""

    fault = Fault.WORKER
    status = 502
    default_hint = "Run `tradepost worker doctor` on that device to find the cause."


class RunnerInterrupted(RunnerFailed):
    """The process that runs pipelines ended because of something else than this run."""


class WorkPreempted(TradepostError):
    """The device's owner stopped or paused the work."""

    fault = Fault.WORKER
    status = 503
    default_hint = "Nothing: the job goes to another worker, and the device's reputation is unaffected."


class SandboxUnavailable(TradepostError):
    """This device cannot provide the required isolation."""

    fault = Fault.WORKER
    status = 501
    default_hint = "Run `tradepost worker doctor`: it prints the missing layers and how to fix them."
