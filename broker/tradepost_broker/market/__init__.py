"""The pure market core. `Market.handle(event)` decides; shells execute. No clock, no randomness, no I/O.

The rooms, lowest first; none imports a room above its own:

- `model`: records, events, instructions, policy, state tables. Beside it `ledger`, the double-entry books.
- `trust`: whether results can be believed.
- `state`: the records by id, and the indexes over offers, waiting jobs and timers.
- `settling`: how leases and jobs end, and what is paid.
- `matching`: who gets a lease, at what price, and why a job found nobody.
- `handlers`: one module for each source of events.

Above them stand `core`, which dispatches events, and `recovery`, which rebuilds the market after a restart.
`testing` drives a market without a shell.
"""

from tradepost_broker.market.core import Market
from tradepost_broker.market.state.worker_state import Reputation

__all__ = ["Market", "Reputation"]
