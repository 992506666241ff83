"""What an owner should know when a device has joined: who it is, what it can do, what limits it, what it may
earn, and how to be rid of it.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec

from tradepost.money import counted_credits, format_credits
from tradepost.plurals import counted
from tradepost_signing.policy.trust import TrustPolicy
from tradepost_worker.commands.report import look
from tradepost_worker.commands.status import limits_in_force
from tradepost_worker.device.sensors import not_enforceable
from tradepost_worker.link.market_view import PriceRange
from tradepost_worker.runner.lockdown import Isolation
from tradepost_worker.settings import Settings
from tradepost_worker.state import Membership
from tradepost_worker.supervision.speed import Speed, measured_speed

STOP = "Ctrl-C, or `tradepost worker pause`, `drain` or `service uninstall`"
UNINSTALL = "tradepost worker uninstall"


class JoinFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A device that has joined. `prices` is `None` where the market has no data yet, `speed` and `isolation`
    where nothing was measured."""

    membership: Membership
    speed: Speed | None
    isolation: Isolation | None
    limits: dict[str, Any]
    not_enforceable: dict[str, str]
    prices: PriceRange | None
    publishers_trusted: int

    def to_json(self) -> dict[str, Any]:
        """For programs: the membership's fields, and the facts beside them."""
        facts: dict[str, Any] = msgspec.to_builtins(self)
        membership = facts.pop("membership")
        membership["broker_id"] = membership.pop("broker")  # as `status` names it
        return {**membership, **facts, "stop": STOP, "uninstall": UNINSTALL}

    def lines(self) -> list[str]:
        """For people."""
        joined = self.membership
        limits = ", ".join(
            f"{name} {_limit(name, value)}" for name, value in self.limits.items() if value not in ("", 0)
        )
        lines = [
            f"{joined.device} joined {joined.broker_url} for {joined.owner}, "
            f"with {counted_credits(joined.stake_microcredits)} at stake.",
            f"worker     {joined.worker}",
            *self._measured(),
            f"limits     {limits}",
            *(
                f"           {name} is not enforceable here: {why}"
                for name, why in self.not_enforceable.items()
            ),
            f"earnings   {self._earnings()}",
            f"stop       {STOP}",
            f"uninstall  {UNINSTALL}",
        ]
        if not self.publishers_trusted:
            lines.append("Nothing runs until you trust a publisher: tradepost worker trust add NAME KEY.pub")
        return lines

    def _measured(self) -> list[str]:
        if self.speed is None or self.isolation is None:
            return [
                "speed      not measured",
                "isolation  not measured: run `tradepost worker doctor` to measure it",
            ]
        return [
            f"speed      {self.speed} ({self.speed.hardware})",
            f"isolation  {', '.join(self.isolation.achieved)}",
            *(f"           not {layer}: {why}" for layer, why in self.isolation.refused.items()),
        ]

    def _earnings(self) -> str:
        if self.prices is None:
            return "no data yet"
        low, high = map(format_credits, (self.prices.low_microcredits, self.prices.high_microcredits))
        newest = counted(self.prices.leases, "paid lease")
        return f"{low} to {high} credits per lease, from the newest {newest}"


def _limit(name: str, value: Any) -> str:
    """The value as it is set, and a size in MiB beside it."""
    shown = json.dumps(value)
    return f"{shown} ({value >> 20:,} MiB)" if "_bytes" in name and isinstance(value, int) else shown


def gather_facts(membership: Membership, settings: Settings, *, measure: bool) -> JoinFacts:
    """Measure if asked to, look at the market, and put it together.

    Raises `RunnerFailed` or `SandboxUnavailable` if no runner works here.
    """
    speed, isolation = None, None
    if measure:
        threads = settings.threads_per_runner
        speed, ready = asyncio.run(measured_speed(settings.state_dir, threads=threads))
        isolation = ready.isolation
    market = look(settings)
    return JoinFacts(
        membership=membership,
        speed=speed,
        isolation=isolation,
        limits=limits_in_force(settings),
        not_enforceable=not_enforceable(msgspec.structs.asdict(settings)),
        prices=None if market is None else market.prices,
        publishers_trusted=len(TrustPolicy.load(settings.trust_path).publishers),
    )
