"""Outcomes of simulated runs, and whether two agree, as the broker's comparison would find.

A right outcome is `right` with a distance from the exact value, in steps of which `TOLERANCE_STEPS` are the
pipeline's tolerance. One that was reached by a shortcut has another first stage, a kernel, and an output as
near as that of an honest run. Anything else is made up, and agrees only with the same text.
"""

from __future__ import annotations

from random import Random
from typing import Final

RIGHT: Final = "right"
MADE_UP: Final = "made-up:"
_SHORTCUT: Final = "~"
TOLERANCE_STEPS: Final = 10
#: How far each execution provider is from the exact value: the widest pair is still within the tolerance.
PROVIDER_STEPS: Final = {"cpu": 0, "cuda": 3, "openvino": -3}
_JITTER_STEPS: Final = 1


def right(provider: str, rng: Random) -> str:
    """What an honest run on this provider gives."""
    return f"{RIGHT}{PROVIDER_STEPS[provider] + rng.randint(-_JITTER_STEPS, _JITTER_STEPS):+d}"


def shortcut(provider: str, rng: Random) -> str:
    """What a run with a cheaper first stage gives on this provider: an output that looks right."""
    return right(provider, rng) + _SHORTCUT


def made_up(label: str) -> str:
    """An outcome without a run; the same label gives the same outcome."""
    return MADE_UP + label


def is_right(outcome: str) -> bool:
    """Whether an honest run can have given it."""
    return outcome.startswith(RIGHT) and not is_shortcut(outcome)


def is_shortcut(outcome: str) -> bool:
    """Whether its first stage was another kernel."""
    return outcome.endswith(_SHORTCUT)


def agree(a: str, b: str) -> bool:
    """Whether two outcomes of one job agree, stage by stage."""
    return not are_told_apart(a, b) and are_near(a, b)


def are_told_apart(a: str, b: str) -> bool:
    """Whether the first stage proves that two runs of one job contradict each other."""
    return is_shortcut(a) != is_shortcut(b) and a.startswith(RIGHT) and b.startswith(RIGHT)


def are_near(a: str, b: str) -> bool:
    """Whether the outputs alone of two runs of one job agree within the tolerance."""
    if a == b:
        return True
    if not (a.startswith(RIGHT) and b.startswith(RIGHT)):
        return False
    return abs(_steps(a) - _steps(b)) <= TOLERANCE_STEPS


def _steps(outcome: str) -> int:
    return int(outcome[len(RIGHT) :].removesuffix(_SHORTCUT))
