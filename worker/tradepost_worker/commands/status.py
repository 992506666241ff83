"""Why the worker works or does not, from its own files and the broker's public data."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import msgspec

from tradepost.money import format_credits
from tradepost.plurals import counted
from tradepost.protocol import Finding
from tradepost_signing.policy.trust import TrustPolicy
from tradepost_worker.device import limits
from tradepost_worker.device.governor import CLOCK_SKEW_S_SHOWN, Cause
from tradepost_worker.device.owner_command import Mode, OwnerCommand, OwnerCommandFile
from tradepost_worker.device.sensors import not_enforceable
from tradepost_worker.leases.earnings import Earnings, read_earnings
from tradepost_worker.leases.findings import describe_finding, read_findings
from tradepost_worker.leases.outbox import read_pending
from tradepost_worker.link.market_view import MarketView
from tradepost_worker.settings import Settings
from tradepost_worker.state import Connection, Membership, StateFolder, WorkerStatus
from tradepost_worker.wording import local_time, skewed

_HOUR_S: Final = 3600
_DAY_S: Final = 24 * _HOUR_S
_FINDINGS_MAX: Final = 100


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """A worker as `tradepost worker status` shows it; `standing` is reported by the running worker."""

    state_dir: str
    at: float
    membership: Membership | None
    connection: Connection | None
    standing: WorkerStatus | None
    word: OwnerCommand
    unacknowledged: int
    last_hour: Earnings
    ever: Earnings
    findings: tuple[Finding, ...] = ()
    publishers_trusted: int
    limits: dict[str, Any]
    not_enforceable: dict[str, str]
    market: MarketView | None = None
    has_folder: bool = True

    def to_json(self) -> dict[str, Any]:
        """For programs. The keys are stable."""
        membership, standing = self.membership, self.standing
        decision = standing and standing.decision
        return {
            "sentence": self.sentence(),
            "state_dir": self.state_dir,
            "broker_url": membership and membership.broker_url,
            "broker_id": membership and membership.broker,
            "worker": membership and membership.worker,
            "device": membership and membership.device,
            "running": self.connection is not None,
            "connected": self.connection is not None and self.connection.is_connected,
            "connected_since": self.connection and self.connection.since,
            "not_connected_because": self.connection and self.connection.problem,
            "clock_skew_s": self.clock_skew_s,
            "owner": msgspec.to_builtins(self.word),
            "paused_by": decision and decision.cause,
            "capacity": decision and decision.capacity,
            "leases_running": standing.running if standing else 0,
            "preemptions": standing.preemptions if standing else 0,
            "unacknowledged": self.unacknowledged,
            "leases": self.ever.leases,
            "paid_leases": self.ever.paid_leases,
            "earned_microcredits": self.ever.earned_microcredits,
            "leases_last_hour": self.last_hour.leases,
            "earned_last_hour_microcredits": self.last_hour.earned_microcredits,
            "findings_last_day": msgspec.to_builtins(self.findings),
            "publishers_trusted": self.publishers_trusted,
            "limits": self.limits,
            "not_enforceable": self.not_enforceable,
            "device_now": standing and msgspec.to_builtins(standing.readings),
            "market": self.market and msgspec.to_builtins(self.market),
        }

    def sentence(self) -> str:
        """What it does, why, and what it earned."""
        if self.membership is None and not self.has_folder:
            return (
                f"Not joined: the state folder {self.state_dir} does not exist. Correct --state-dir, or "
                "join: tradepost worker join URL --token TOKEN"
            )
        if self.membership is None:
            return f"Not joined (state: {self.state_dir}). To join: tradepost worker join URL --token TOKEN"
        credits_, leases = format_credits(self.ever.earned_microcredits), counted(self.ever.leases, "lease")
        earned = f"earned {credits_} credits for {self.ever.paid_leases:,} of {leases}"
        wait = counted(self.unacknowledged, "result waits", "results wait")
        waiting = f"; {wait} for the broker" if self.unacknowledged else ""
        return f"{self._doing(self.membership)}; {earned}{waiting}{self._found()}{self._skew()}."

    def _found(self) -> str:
        if not self.findings:
            return ""
        newest = self.findings[0]
        many = f"{_FINDINGS_MAX} or more" if len(self.findings) == _FINDINGS_MAX else f"{len(self.findings)}"
        leases = "lease" if many == "1" else "leases"
        return (
            f"; {many} {leases} lowered its reputation in the last day "
            f"({newest.lease}: {describe_finding(newest)})"
        )

    def _skew(self) -> str:
        skew_s = self.clock_skew_s
        if skew_s is None or abs(skew_s) <= CLOCK_SKEW_S_SHOWN:
            return ""
        return f"; this device's clock is {skewed(skew_s)}"

    @property
    def clock_skew_s(self) -> float | None:
        """How far this device's clock is ahead of the broker's, if the running worker knows."""
        return self.standing.readings.clock_skew_s if self.standing is not None else None

    def _doing(self, membership: Membership) -> str:
        if self.connection is None:
            return "Stopped; paused when it starts again" if self.word.mode is Mode.PAUSE else "Stopped"
        if self.standing is not None and self.standing.decision.cause is not None:
            return _paused(self.standing)
        return self._working(membership.broker_url, self.connection)

    def _working(self, url: str, connection: Connection) -> str:
        # A clock that was set back must not make it negative.
        minutes = counted(int(max(0.0, self.at - connection.since) / 60), "minute")
        if not connection.is_connected:
            why = f" ({connection.problem})" if connection.problem else ""
            return f"Trying to reach {url}, not connected for {minutes}{why}"
        if not self.publishers_trusted:
            return f"Connected to {url}, but 0 publishers are trusted, so nothing can run"
        account = self.market and self.market.account
        if account and account.standing != "active":
            return (
                f"Connected to {url}, but this device is {account.standing} there "
                f"(score {account.score:.2f}), so it gets no leases"
            )
        if self.standing is not None and self.standing.running:
            capacity = counted(self.standing.decision.capacity, "lease runs", "leases run")
            return f"Working for {url}: {self.standing.running} of {capacity}"
        if self.last_hour.leases:
            leases = counted(self.last_hour.leases, "lease")
            credits_ = format_credits(self.last_hour.earned_microcredits)
            return f"Waiting for work from {url}: {leases} in the last hour, {credits_} credits"
        return f"Idle at {url} for {minutes}: {self._why_idle()}"

    def _why_idle(self) -> str:
        competition = self.market and self.market.competition
        if self.market is None:
            return "0 leases in the last hour; the broker reports no reason"
        if not competition:
            return "0 leases in the last hour in the whole market"
        newest = f"the market's last {counted(competition.matches, 'match', 'matches')}"
        if not competition.lost:
            return f"it was not eligible for any of {newest}"
        ratio = competition.price_ratio
        price = "" if ratio is None else f", median price paid {ratio:g}x its bid"
        return f"lost {competition.lost} of {newest} ({competition.reason}){price}"


def _paused(standing: WorkerStatus) -> str:
    decision = standing.decision
    if decision.cause is Cause.DRAIN:
        return f"Draining: {decision.why}, {counted(standing.running, 'lease')} left"
    until = "" if decision.until is None else f" until {local_time(decision.until)}"
    return f"Paused{until}: {decision.why}"


def read_status(settings: Settings, *, clock: Callable[[], float] = time.time) -> Status:
    """The worker of this state folder, at the time of `clock` (Unix seconds).

    Raises `InvalidSettings` or `InvalidTrustPolicy`.
    """
    state = StateFolder(settings.state_dir)
    connection = state.connection()
    at = clock()
    word = OwnerCommandFile(state.owner_command).read()
    return Status(
        state_dir=str(state.path),
        at=at,
        membership=state.membership(),
        connection=connection,
        standing=state.status() if connection is not None else None,
        word=word.at(at),
        unacknowledged=read_pending(state.database),
        last_hour=read_earnings(state.database, since=at - _HOUR_S),
        ever=read_earnings(state.database),
        findings=tuple(read_findings(state.database, since=at - _DAY_S, rows_max=_FINDINGS_MAX)),
        publishers_trusted=len(TrustPolicy.load(settings.trust_path).publishers),
        limits=limits_in_force(settings),
        not_enforceable=not_enforceable(msgspec.structs.asdict(settings)),
        has_folder=state.path.is_dir(),
    )


def limits_in_force(settings: Settings) -> dict[str, Any]:
    """The limits that the owner set, or that a careful default sets."""
    return {name: getattr(settings, name) for name in limits.names()}
