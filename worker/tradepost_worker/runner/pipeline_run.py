"""The outcome of running a pipeline, as runners report it and receipts contain it.

It stands apart from the code that runs pipelines, so that the agent loads no engine.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from tradepost.errors import Problem
from tradepost.pipeline.manifest import STAGES_MAX
from tradepost.receipts import StageReport


class PipelineRun(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a pipeline ended: with an output document, or with the failure of a stage.

    `stages` are the reports of the stages that finished. A failure is a result too: it is the same on every
    device, so it is signed and verified like an output.
    """

    stages: Annotated[tuple[StageReport, ...], msgspec.Meta(max_length=STAGES_MAX)]
    output: bytes = b""
    failure: Problem | None = None
