"""How much work one batch takes, and how much may wait."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

BATCH_MAX: Final = 256
#: After so many seconds of deciding, or with so many bytes of documents, a batch is committed as it is: while
#: works are decided and their rows written, the event loop does nothing else.
BATCH_S_MAX: Final = 0.02
BATCH_BYTES_MAX: Final = 4 << 20
#: Work that may wait, for its turn or its preparation, before `ready` makes those who bring more wait too.
BACKLOG_MAX: Final = 4096


@dataclass(frozen=True, kw_only=True)
class EngineLimits:
    """How many works may wait, and for how many seconds works of one batch are decided."""

    backlog_max: int = BACKLOG_MAX
    batch_s_max: float = BATCH_S_MAX


LIMITS: Final = EngineLimits()
