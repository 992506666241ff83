"""The limits on the worker's use of the device, as settings.

Each limit has a value that means "as much as there is", which is its default, except where a careful owner
would not have to think of it: nothing runs on battery, nothing fills the disk or the memory.
"""

from __future__ import annotations

import re
from typing import Annotated, Final

import msgspec

from tradepost.bounded import Count, Positive
from tradepost.errors import InvalidSettings

Percent = Annotated[int, msgspec.Meta(ge=0, le=100)]
Cores = Annotated[int, msgspec.Meta(ge=1, le=4096)]

MINUTES_PER_DAY: Final = 24 * 60
_SPAN: Final = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]):([0-5][0-9])")


class DeviceLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The owner's limits; `docs/worker.md` explains each. Zero is "no limit" where it makes no other sense.

    Raises `InvalidSettings` for hours that are not like `22:00-07:00`.
    """

    cpu_percent: Annotated[int, msgspec.Meta(ge=1, le=100)] = 100
    cores_max: Cores = 4096
    nice: Annotated[int, msgspec.Meta(ge=0, le=19)] = 10
    memory_bytes_max: Positive
    memory_free_bytes_min: Count = 256 << 20
    cache_bytes_max: Positive = 8 << 30
    compiled_bytes_max: Count = 256 << 20
    disk_free_bytes_min: Count = 1 << 30
    network_bytes_per_s_max: Count = 0
    gpu_percent: Percent = 100
    hours: str = ""
    mains_only: bool = True
    battery_percent_min: Percent = 0
    temperature_celsius_max: Annotated[int, msgspec.Meta(ge=0, le=150)] = 0
    idle_only: bool = False
    idle_load_percent_max: Annotated[int, msgspec.Meta(ge=1, le=100)] = 20
    idle_input_s_min: Annotated[int, msgspec.Meta(ge=0, le=24 * 3600)] = 300

    @property
    def looks_at_input(self) -> bool:
        """Whether work depends on when somebody last used the device."""
        return self.idle_only and self.idle_input_s_min > 0

    def __post_init__(self) -> None:
        parse_hours(self.hours)


def parse_hours(text: str) -> tuple[tuple[int, int], ...]:
    """Spans of minutes of the day, of `22:00-07:00, 12:00-13:00`. Raises `InvalidSettings`."""
    spans = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = _SPAN.fullmatch(part)
        if match is None:
            raise InvalidSettings(f"hours: {part!r} is not like 22:00-07:00")
        begin_h, begin_min, end_h, end_min = map(int, match.groups())
        spans.append((60 * begin_h + begin_min, 60 * end_h + end_min))
    return tuple(spans)


def is_within(hours: str, minute_of_day: int) -> bool:
    """Whether work is allowed at this minute. Empty hours allow every minute; a span may pass midnight, and
    one that ends where it begins is the whole day."""
    spans = parse_hours(hours)
    return not spans or any(
        (minute_of_day - begin) % MINUTES_PER_DAY < ((end - begin) % MINUTES_PER_DAY or MINUTES_PER_DAY)
        for begin, end in spans
    )


def names() -> tuple[str, ...]:
    """The settings that are limits, in the order in which they are shown."""
    return tuple(field.name for field in msgspec.structs.fields(DeviceLimits))
