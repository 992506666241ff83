"""A market in virtual time: the real core, simulated workers, submitters and network, and the checks of both.

The rooms, lowest first; none imports a room above its own:

- `world`: virtual time, the network, a broker that commits and crashes, devices and clients.
- `workers`, `submitters`: one small class for each way to behave.
- `invariants`, `figures`: what must hold after each event, and what a run amounts to.
- `scenarios`, `random_scenarios`, `simulation`: who takes part, and the run itself.
- `replay`: a broker's journal, decided again under the same or another policy.
- `commands`: `tradepost market`.

Nothing but the commands reads a clock, and all randomness follows from the run's seed: the same seed gives
the same digest.
"""
