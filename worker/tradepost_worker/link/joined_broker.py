"""The broker that this device joined, and the device's identity there."""

from __future__ import annotations

from dataclasses import dataclass

from tradepost.identity import Identity
from tradepost_worker.link.broker_api import BrokerApi


@dataclass(frozen=True, kw_only=True)
class JoinedBroker:
    """The broker whose key has the id `broker_id`, reached through `api` in the name of `worker`."""

    api: BrokerApi
    broker_id: str
    worker: Identity
