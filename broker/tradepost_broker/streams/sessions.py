"""Which workers are connected, and the queue of frames to each."""

from __future__ import annotations

from tradepost.protocol import ToWorker
from tradepost_broker.streams.frame_queue import Outbox


class Sessions:
    """The outboxes of connected workers, one for each worker: a newer connection replaces the older."""

    def __init__(self) -> None:
        self._outboxes: dict[str, Outbox] = {}

    def open(self, worker: str, outbox: Outbox) -> Outbox | None:
        """Post to `outbox` from now on; the outbox that it replaces, if any."""
        replaced = self._outboxes.get(worker)
        self._outboxes[worker] = outbox
        return replaced

    def close(self, worker: str, outbox: Outbox) -> bool:
        """Stop posting to `outbox`; whether it was still the worker's newest."""
        if self._outboxes.get(worker) is not outbox:
            return False
        del self._outboxes[worker]
        return True

    def post(self, worker: str, frame: ToWorker) -> None:
        """Send a frame to a worker, if it is connected."""
        outbox = self._outboxes.get(worker)
        if outbox is not None:
            outbox.post(frame)

    def post_to_all(self, frame: ToWorker) -> None:
        """Send a frame to every connected worker."""
        for outbox in self._outboxes.values():
            outbox.post(frame)

    def is_connected(self, worker: str) -> bool:
        """Whether the worker has a stream."""
        return worker in self._outboxes

    def __len__(self) -> int:
        return len(self._outboxes)
