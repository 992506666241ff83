"""The pure market core. `Market.handle(event)` decides; shells execute. No clock, no randomness, no I/O.

Read it in this order: `core` (dispatch), `state` (memory), then what events do: `intake`, `attendance`,
`deliveries`, `clockwork`; what follows from them: `leasing`, `matching` with `search`, `scoring` and
`offers`, `settlement`, `unmatched`; and `recovery`. `testing` drives a market without a shell.
"""

from tradepost_broker.market.core import Market
from tradepost_broker.market.roster import Reputation

__all__ = ["Market", "Reputation"]
