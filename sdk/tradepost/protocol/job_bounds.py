"""The bounds of what a job may ask for: the same in the SDK, in the commands, in REST and on the streams."""

from __future__ import annotations

from typing import Final

#: The least probability with which an accepted result must be right.
CONFIDENCE_MIN: Final = 0.5
CONFIDENCE_MAX: Final = 0.999999
DEADLINE_S_MIN: Final = 0.001
#: For deadlines, and for the time that a job waits while no offer could run it: a week.
SECONDS_MAX: Final = 7 * 24 * 3600
#: Weights of a `Preference`. A price that does not count at all would leave nothing to weigh against.
PRICE_WEIGHT_MIN: Final = 0.01
WEIGHT_MAX: Final = 100
ISOLATION_MAX: Final = 8
IDEMPOTENCY_KEY_CHARS_MAX: Final = 128
#: What JSON carries exactly.
BYTES_MAX: Final = 1 << 53
#: How many jobs one page of a list has at most.
JOBS_SHOWN_MAX: Final = 1000

# Unless a request says otherwise:
CONFIDENCE: Final = 0.95
DEADLINE_S: Final = 300.0
PATIENCE_S: Final = 5.0
