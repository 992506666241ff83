"""Pipelines and their stages.

A `StageFailure` is the same on every device, so it is verified like any other outcome.
"""

from __future__ import annotations

from tradepost.errors.base import Fault, TradepostError


class InvalidPipeline(TradepostError):
    """The pipeline is not valid."""

    fault = Fault.PUBLISHER
    status = 422
    default_hint = "Correct what the detail names in pipeline.toml, and publish it again."


class UnknownPipeline(TradepostError):
    """No pipeline with this CID was published here."""

    fault = Fault.SUBMITTER
    status = 404
    default_hint = "`tradepost publish --broker` prints the CID to use; a Kubo node having it is not enough."


class StageFailure(TradepostError):
    """A stage failed."""

    fault = Fault.PUBLISHER
    status = 422
    default_hint = "It fails so on every device: change the input, or tell the pipeline's publisher."


class KernelTrap(StageFailure):
    """A kernel trapped."""

    default_hint = "Reproduce it offline with the same input: `tradepost kernel run`."


class KernelOutOfFuel(StageFailure):
    """A kernel used up its fuel."""

    default_hint = "Raise the stage's limits.fuel in pipeline.toml, or send a smaller input."


class KernelError(StageFailure):
    """A kernel reported an error about its input."""

    fault = Fault.SUBMITTER
    default_hint = "Correct the input as the kernel's message in the detail says."


class KernelMemoryExceeded(StageFailure):
    """A kernel asked for more memory than its limit."""

    default_hint = "Raise the stage's limits.memory_bytes in pipeline.toml."


class InvalidKernel(StageFailure):
    """This module is not a kernel that the sandbox accepts."""

    default_hint = "Build it again as docs/kernels.md says, until `tradepost kernel inspect` accepts it."


class ModelFailure(StageFailure):
    """A model could not be run on this input."""

    default_hint = "The detail is onnxruntime's: compare the input's shapes and values with what it names."


class InvalidModel(StageFailure):
    """This model is not one that the profile accepts."""

    default_hint = "Export it again without what the detail names; docs/containment.md says what is accepted."
