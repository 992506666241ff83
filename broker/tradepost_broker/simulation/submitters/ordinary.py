"""Submitters that want results."""

from __future__ import annotations

from typing import Final

from tradepost_broker.simulation.submitters.model import SubmitterModel
from tradepost_broker.simulation.world.client import Client

_CANCELLATIONS: Final = 0.02


class Customer(SubmitterModel):
    """Wants right results, at the confidences that it asks for."""

    name = "customer"
    hostile = False


class FickleCustomer(Customer):
    """Wants right results, and cancels one job in fifty."""

    name = "fickle-customer"

    def submitted(self, client: Client, job: str) -> None:
        """Cancel a few."""
        if client.rng.random() < _CANCELLATIONS:
            client.world.schedule.after(client.rng.random() * self._run_s, client.cancel, job)
