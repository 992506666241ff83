"""The network between the broker and its peers: streams that delay, break, and repeat what they carry.

A stream is in order, as TCP is. A lost message is a broken stream: what is on its way vanishes, both ends
find out, and the peer connects again. Then both repeat what was not acknowledged, so real duplicates arise;
`duplication` makes more of them. A partition keeps a share of the peers from connecting for a while.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Annotated, Any, Final

import msgspec

from tradepost_broker.simulation.world.schedule import Action, Schedule, seeded

Ratio = Annotated[float, msgspec.Meta(ge=0, le=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]

_RECONNECT_S: Final = (0.5, 5.0)


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """How bad the network and the broker's machine are.

    `loss` and `duplication` are probabilities for each message, `crash` for each batch of the broker, which
    is then down for up to `down_s`. Every `partition_every_s`, `partition_share` of the peers cannot reach
    the broker for `partition_s`. `detection_s` is how long the broker takes to notice a broken stream.
    """

    delay_s: Seconds = 0.02
    loss: Ratio = 0.0
    duplication: Ratio = 0.0
    crash: Ratio = 0.0
    down_s: Seconds = 20.0
    partition_every_s: Seconds = 0.0
    partition_s: Seconds = 30.0
    partition_share: Ratio = 0.3
    detection_s: Seconds = 5.0


#: A network and a machine without faults, but with their delays.
HEALTHY: Final = Faults()


class Network:
    """What all streams have in common: the faults of the moment, and whether the broker can be reached."""

    def __init__(self, schedule: Schedule, faults: Faults, *, seed: int) -> None:
        self.schedule = schedule
        self.faults = faults
        self.broker_is_up = True
        self._seed = seed
        self._links: list[Link] = []
        self._rng = seeded(seed, "partitions")
        if faults.partition_every_s:
            schedule.after(faults.partition_every_s, self._partition)

    def link(self, peer: str, *, opened: Action, broke: Action) -> Link:
        """A stream for one peer, closed. `opened` and `broke` are called at the peer's end."""
        link = Link(self, seeded(self._seed, "link", peer), opened=opened, broke=broke)
        self._links.append(link)
        return link

    def break_all(self) -> None:
        """Break every stream: the broker is gone."""
        for link in self._links:
            link.break_off()

    def heal(self) -> None:
        """End all faults and partitions."""
        self.faults = HEALTHY
        for link in self._links:
            link.cut_until = 0.0

    def _partition(self) -> None:
        faults = self.faults
        if not faults.partition_every_s:
            return
        for link in self._links:
            if self._rng.random() < faults.partition_share:
                link.cut_until = self.schedule.at + faults.partition_s
                link.break_off()
        self.schedule.after(faults.partition_every_s, self._partition)


class Link:
    """One peer's stream. `epoch` counts the times that it was opened or broken."""

    def __init__(self, network: Network, rng: Random, *, opened: Action, broke: Action) -> None:
        self.is_open = False
        self.epoch = 0
        self.cut_until = 0.0
        self._network = network
        self._schedule = network.schedule
        self._rng = rng
        self._opened = opened
        self._broke = broke
        self._wanted = False
        self._last = {True: 0.0, False: 0.0}

    def open(self) -> None:
        """Keep the stream open from now on, and open it again whenever it breaks."""
        self._wanted = True
        self._connect()

    def close(self) -> None:
        """Close the stream for good."""
        self._wanted = False
        self.break_off()

    def break_off(self) -> None:
        """Break the stream, if it is open; it is opened again after a while, if it is wanted."""
        if self.is_open:
            self.is_open = False
            self.epoch += 1
            self._broke()
        if self._wanted:
            low, high = _RECONNECT_S
            self._schedule.after(low + (high - low) * self._rng.random(), self._connect)

    def send(self, up: bool, action: Callable[..., None], *arguments: Any) -> None:
        """Send a message to the broker (`up`) or to the peer: `action` is called there, perhaps twice."""
        if not self.is_open:
            return
        faults, now = self._network.faults, self._schedule.at
        if faults.loss and self._rng.random() < faults.loss:
            self.break_off()
            return
        at = max(self._last[up], now + faults.delay_s * 2 * self._rng.random())
        self._last[up] = at
        self._schedule.when(at, self._arrive, self.epoch, action, arguments)
        if faults.duplication and self._rng.random() < faults.duplication:
            again = at + faults.delay_s * self._rng.random()
            self._schedule.when(again, self._arrive, self.epoch, action, arguments)

    def _connect(self) -> None:
        if self.is_open or not self._wanted:
            return
        if self._schedule.at < self.cut_until or not self._network.broker_is_up:
            self._schedule.after(1.0 + 2.0 * self._rng.random(), self._connect)
            return
        self.is_open = True
        self.epoch += 1
        self._opened()

    def _arrive(self, epoch: int, action: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if self.is_open and epoch == self.epoch:
            action(*arguments)
