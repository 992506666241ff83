"""Errors about pipelines and their stages.

A `StageFailure` is the same on every device, so it is verified like any other outcome.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tradepost.errors.base import Fault, TradepostError


class InvalidPipeline(TradepostError):
    """The pipeline is not valid."""

    fault = Fault.PUBLISHER
    status = 422
    default_hint = "Correct pipeline.toml as the detail says, and publish it again."


class UnknownPipeline(TradepostError):
    """No pipeline with this CID is published on this broker."""

    fault = Fault.SUBMITTER
    status = 404
    default_hint = "Publish it with `tradepost publish --broker`; a copy in a Kubo node is not enough."


class StageFailure(TradepostError):
    """A stage failed."""

    fault = Fault.PUBLISHER
    status = 422
    default_hint = "It fails in the same way on every device: change the input, or inform the publisher."


class KernelTrap(StageFailure):
    """A kernel trapped."""

    default_hint = "Reproduce it offline with the same input and `tradepost kernel run`."


class KernelOutOfFuel(StageFailure):
    """A kernel used up its fuel."""

    default_hint = "Raise the stage's fuel in pipeline.toml, or send a smaller input."


class KernelError(StageFailure):
    """A kernel reported an error about its input."""

    fault = Fault.SUBMITTER
    default_hint = "Correct the input; the detail is the kernel's message."


class KernelMemoryExceeded(StageFailure):
    """A kernel exceeded its memory limit."""

    default_hint = "Raise the stage's memory_bytes in pipeline.toml."


class InvalidKernel(StageFailure):
    """This module is not a kernel that the sandbox accepts."""

    default_hint = "Correct what the detail names, and check it with `tradepost kernel inspect`."


class ModelFailure(StageFailure):
    """A model failed on this input."""

    default_hint = "Compare the input's shapes and values with onnxruntime's message in the detail."


class InvalidModel(StageFailure):
    """This model is not allowed by the ONNX profile."""

    default_hint = (
        "Export it again without what the detail names: only ONNX's own operators, and no external data."
    )


class InvalidOutput(StageFailure):
    """The pipeline's output is not as its manifest declares."""

    default_hint = "Correct output_specs in pipeline.toml or the stage, or change the input."


def _by_code(root: type[StageFailure]) -> dict[str, type[StageFailure]]:
    found = {root.code(): root}
    for child in root.__subclasses__():
        found |= _by_code(child)
    return found


#: The failures of a stage by their codes: those that are the same on every device.
STAGE_FAILURES: Final[Mapping[str, type[StageFailure]]] = _by_code(StageFailure)
