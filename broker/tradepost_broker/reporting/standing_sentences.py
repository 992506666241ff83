"""Why a worker is in the state that it is in, and what would change it, in a sentence."""

from __future__ import annotations

from tradepost.plurals import noun
from tradepost_broker.market.model.entities import WorkerStanding
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_reputation.dashboard import WorkerView


def why_standing(worker: WorkerView, *, capacity: int, policy: MarketPolicy) -> str:
    """The sentence about `worker`, which may have `capacity` leases open at once."""
    match WorkerStanding(worker.standing):
        case WorkerStanding.EXPELLED:
            return (
                "Reference runs proved that it gave a false result, so its stake was taken. It gets no more "
                "leases, and no evidence outweighs that."
            )
        case WorkerStanding.SUSPENDED:
            return (
                f"Its score fell to {worker.score:.2f}; below {policy.suspend_below_score:.2f}, a worker "
                "gets no leases. It may work again when it connects after its bad evidence has faded (half "
                f"after {policy.half_life_days:g} days) or was withdrawn."
            )
        case WorkerStanding.ACTIVE:
            return _active(worker, capacity, policy)


def _active(worker: WorkerView, capacity: int, policy: MarketPolicy) -> str:
    if not worker.connected:
        return (
            "It may work, but it is not connected. It gets no leases until it connects; that it is away does "
            "not lower its score."
        )
    if worker.price_per_unit_microcredits is None:
        return "It is connected, but it has sent no offer, so it gets no leases."
    if capacity == 0:
        return (
            "It is connected, but it gets no leases: it offers room for none now, or its engines are older "
            "than the operator's revocation list allows."
        )
    may = f"It is connected, and it may have up to {capacity} {noun(capacity, 'lease')} at once"
    if capacity < worker.capacity:
        return (
            f"{may}. It offers room for {worker.capacity}, and gets all of it when it has passed "
            f"{policy.proven_checks:g} checks."
        )
    return f"{may}, all that it offers room for."
