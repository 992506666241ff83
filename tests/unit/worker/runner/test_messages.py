"""What a runner may say: nothing that takes more of the agent's memory than it takes on the pipe."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tradepost.errors import RunnerFailed
from tradepost.pipeline.manifest import STAGES_MAX
from tradepost_worker.runner.messages import Loaded, Ran, unpack_from_runner

STAGE = {"stage": "s", "output": "0" * 64}


def failing(facts: dict[str, Any]) -> dict[str, Any]:
    failure = {"code": "kernel-trap", "title": "", "stage": "s", "facts": facts}
    return {"type": "ran", "run": {"stages": [], "failure": failure}, "wall_us": 1}


def ready(achieved: list[str], refused: dict[str, str]) -> dict[str, Any]:
    isolation = {"achieved": achieved, "refused": refused}
    return {"type": "ready", "isolation": isolation, "providers": [], "engines": {}, "code": ""}


def numbered(count: int) -> dict[str, str]:
    return {str(number): "" for number in range(count)}


@pytest.mark.parametrize(
    "message",
    [
        failing({"a": [[]]}),
        failing({"a": [0] * 257}),
        failing(numbered(33)),
        {"type": "ran", "run": {"stages": [STAGE] * (STAGES_MAX + 1)}, "wall_us": 1},
        {"type": "reached", "stages": [STAGE] * (STAGES_MAX + 1)},
        {"type": "loaded", "compiled": dict.fromkeys(numbered(STAGES_MAX + 1), b"")},
        {"type": "loaded", "compiled": {"\x1b": b""}},
        ready([""] * 17, {}),
        ready([], numbered(17)),
        ready([], {"landlock": "x" * 1025}),
    ],
    ids=[
        "nested facts",
        "long facts",
        "many facts",
        "stages",
        "stages done",
        "kernels",
        "odd kernel",
        "layers",
        "layers refused",
        "long reason",
    ],
)
def test_what_would_swell_is_refused(message: dict[str, Any]) -> None:
    with pytest.raises(RunnerFailed):
        unpack_from_runner(msgspec.msgpack.encode(message))


def test_as_much_as_a_pipeline_can_have_passes() -> None:
    run = {"type": "ran", "run": {"stages": [STAGE] * STAGES_MAX}, "wall_us": 1}
    assert isinstance(unpack_from_runner(msgspec.msgpack.encode(run)), Ran)
    loaded = {"type": "loaded", "compiled": dict.fromkeys(numbered(STAGES_MAX), b"")}
    assert isinstance(unpack_from_runner(msgspec.msgpack.encode(loaded)), Loaded)
