"""Which workers are connected, and the queue of frames to each."""

from __future__ import annotations

from tradepost.protocol import ToWorker
from tradepost_broker.streams.frame_queue import FrameQueue


class Sessions:
    """The frame queues of connected workers, one for each worker: a newer connection replaces the older."""

    def __init__(self) -> None:
        self._queues: dict[str, FrameQueue] = {}

    def open(self, worker: str, queue: FrameQueue) -> FrameQueue | None:
        """Post to `queue` from now on; the queue that it replaces, if any."""
        replaced = self._queues.get(worker)
        self._queues[worker] = queue
        return replaced

    def close(self, worker: str, queue: FrameQueue) -> bool:
        """Stop posting to `queue`; whether it was still the worker's newest."""
        if self._queues.get(worker) is not queue:
            return False
        del self._queues[worker]
        return True

    def post(self, worker: str, frame: ToWorker) -> None:
        """Send a frame to a worker, if it is connected."""
        queue = self._queues.get(worker)
        if queue is not None:
            queue.post(frame)

    def post_to_all(self, frame: ToWorker) -> None:
        """Send a frame to every connected worker."""
        for queue in self._queues.values():
            queue.post(frame)

    def is_connected(self, worker: str) -> bool:
        """Whether the worker has a stream."""
        return worker in self._queues

    def __len__(self) -> int:
        return len(self._queues)
