"""What a piece of work is called, so that it is known again when its sender repeats it.

The name holds what a sender keeps when it repeats a request: an idempotency key, a lease, an offer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Final

import msgspec

from tradepost_broker.market.model.events import (
    CancelRequested,
    DefectFound,
    Event,
    Funded,
    JobSubmitted,
    LeaseGivenBack,
    LeaseProgressed,
    MatchingEvent,
    OfferUpdated,
    PipelinePublished,
    QuarantineLifted,
    ReceiptDelivered,
    RevocationsIssued,
    WorkerConnected,
    WorkerJoined,
)

_DIGEST_CHARS: Final = 16


def piece_of(event: Event) -> str:
    """The name of the event's work; "" for what the broker itself brings, and brings again each time."""
    name = _NAMES.get(type(event))
    return "" if name is None else name(event)


def delivery_of(lease: str) -> str:
    """The name of what a worker sends to end a lease."""
    return f"delivery {lease}"


def lease_of(event: Event) -> str:
    """The lease that the event would have ended; "" for other events."""
    return event.lease if isinstance(event, ReceiptDelivered | LeaseGivenBack | DefectFound) else ""


def written(event: Event) -> bytes:
    """The event as msgpack, without its seed, as the journal has it."""
    if isinstance(event, MatchingEvent):
        event = msgspec.structs.replace(event, seed=0)
    return msgspec.msgpack.encode(event)


def _digest(value: object) -> str:
    return hashlib.sha256(msgspec.msgpack.encode(value)).hexdigest()[:_DIGEST_CHARS]


def _offer(event: WorkerConnected | OfferUpdated) -> str:
    return f"offer {event.worker} {_digest(event.offer)}"


_NAMES: Final[dict[type[Any], Callable[[Any], str]]] = {
    JobSubmitted: lambda event: f"submission {event.account} {event.idempotency_key}",
    CancelRequested: lambda event: f"cancellation {event.job}",
    QuarantineLifted: lambda event: f"quarantine {event.pipeline} {event.account}",
    ReceiptDelivered: lambda event: delivery_of(event.lease),
    LeaseGivenBack: lambda event: delivery_of(event.lease),
    LeaseProgressed: lambda event: f"progress {event.lease}",
    WorkerConnected: _offer,
    OfferUpdated: _offer,
    WorkerJoined: lambda event: f"join {event.worker}",
    Funded: lambda event: f"funding {event.transfer}",
    PipelinePublished: lambda event: f"publication {event.pipeline.id}",
    RevocationsIssued: lambda event: f"revocations {event.document.version}",
}
