"""Outcomes of simulated runs, and whether two agree, as the broker's comparison would find.

A right outcome is `right` with a distance from the exact value, in steps of which `TOLERANCE_STEPS` are the
pipeline's tolerance. Anything else is made up, and agrees only with the same text.
"""

from __future__ import annotations

from random import Random
from typing import Final

RIGHT: Final = "right"
MADE_UP: Final = "made-up:"
TOLERANCE_STEPS: Final = 10
#: How far each execution provider is from the exact value: the widest pair is still within the tolerance.
PROVIDER_STEPS: Final = {"cpu": 0, "cuda": 3, "openvino": -3}
_JITTER_STEPS: Final = 1


def right(provider: str, rng: Random) -> str:
    """What an honest run on this provider gives."""
    return f"{RIGHT}{PROVIDER_STEPS[provider] + rng.randint(-_JITTER_STEPS, _JITTER_STEPS):+d}"


def made_up(label: str) -> str:
    """An outcome without a run; the same label gives the same outcome."""
    return MADE_UP + label


def is_right(outcome: str) -> bool:
    """Whether an honest run can have given it."""
    return outcome.startswith(RIGHT)


def agree(a: str, b: str) -> bool:
    """Whether two outcomes of one job agree within the tolerance."""
    if a == b:
        return True
    if not (is_right(a) and is_right(b)):
        return False
    return abs(int(a[len(RIGHT) :]) - int(b[len(RIGHT) :])) <= TOLERANCE_STEPS
