"""What a worker with an older version of the frames gets.

Frames reject unknown fields, so what a version added is left out for workers of the versions before it. Such
a field has a default, which the encoder leaves out.
"""

from __future__ import annotations

import msgspec

from tradepost.protocol.worker_frames import Finding, Grant, ToWorker, Welcome


def for_version(frame: ToWorker, version: int) -> ToWorker | None:
    """`frame` as a worker of this version can decode it; `None` if that version does not know it."""
    if version >= 3:
        return frame
    match frame:
        case Grant():
            return msgspec.structs.replace(frame, left_s=None)
        case Welcome():
            return msgspec.structs.replace(frame, at=None)
        case Finding():
            return None
    return frame
