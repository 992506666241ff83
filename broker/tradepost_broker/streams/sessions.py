"""Which workers are connected, and the queue of frames to each."""

from __future__ import annotations

from typing import NamedTuple

from tradepost.protocol import ToWorker, for_version
from tradepost_broker.streams.frame_queue import FrameQueue


class _Session(NamedTuple):
    queue: FrameQueue
    version: int

    def post(self, frame: ToWorker) -> None:
        if (known := for_version(frame, self.version)) is not None:
            self.queue.post(known)


class Sessions:
    """The frame queues of connected workers, one for each worker: a newer connection replaces the older.

    Each worker gets what its version of the frames knows.
    """

    def __init__(self) -> None:
        self._sessions: dict[str, _Session] = {}

    def open(self, worker: str, queue: FrameQueue, *, version: int) -> FrameQueue | None:
        """Post to `queue` from now on; the queue that it replaces, if any."""
        replaced = self._sessions.get(worker)
        self._sessions[worker] = _Session(queue, version)
        return None if replaced is None else replaced.queue

    def close(self, worker: str, queue: FrameQueue) -> bool:
        """Stop posting to `queue`; whether it was still the worker's newest."""
        session = self._sessions.get(worker)
        if session is None or session.queue is not queue:
            return False
        del self._sessions[worker]
        return True

    def post(self, worker: str, frame: ToWorker) -> None:
        """Send a frame to a worker, if it is connected."""
        if (session := self._sessions.get(worker)) is not None:
            session.post(frame)

    def post_to_all(self, frame: ToWorker) -> None:
        """Send a frame to every connected worker."""
        for session in self._sessions.values():
            session.post(frame)

    def is_connected(self, worker: str) -> bool:
        """Whether the worker has a stream."""
        return worker in self._sessions

    def __len__(self) -> int:
        return len(self._sessions)
