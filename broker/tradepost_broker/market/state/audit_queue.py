"""Which job the next auditor that has time makes a reference run of.

Auditors' time is shared by start-time fair queueing (Goyal, Vin and Cheng, 1996): each account has a clock
that runs by the auditor time it uses, an account that begins to wait starts at the clock of the one that is
furthest behind, and that one is next. So an account that floods the auditors waits for itself. Within
an account, its pipelines share in the same way. A job that waits to be decided comes before spot checks of
decided ones, unless its account is more than `_AHEAD_S` ahead of its share.

A run is charged its pipeline's time limit when it begins, and what it did not use is given back at its end.

Which auditor may run a job depends on its pipeline and on who has run the job before. So a flow's jobs wait
in groups of the same history, and what does not suit an auditor costs one look for each group. Between the
groups of a flow, the job that came first is next.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Set
from typing import Final, NamedTuple

#: How far ahead of its share, in seconds of auditor time, an account's undecided jobs still come first.
_AHEAD_S: Final = 60.0
#: Clocks of accounts that wait for nothing are dropped beyond this number.
_IDLE_CLOCKS_KEPT: Final = 1_024


class Flow(NamedTuple):
    """Whose time a reference run uses."""

    account: str
    pipeline: str


class Group(NamedTuple):
    """Jobs of a flow that suit the same auditors: those that had the same reference runs (`history`)."""

    flow: Flow
    history: tuple[str, ...] = ()


class _Charge(NamedTuple):
    flow: Flow
    begun_at: float
    charged_s: float


class _Clocks:
    """The auditor time that each waiting subject has used, as far as it matters for who is next."""

    def __init__(self) -> None:
        self._used_s: dict[object, float] = {}
        self.now_s = 0.0

    def used(self, subject: object) -> float:
        return max(self._used_s.get(subject, 0.0), self.now_s)

    def start(self, subject: object) -> None:
        self._used_s[subject] = self.used(subject)

    def serve(self, subject: object, charged_s: float, waiting: Iterable[object]) -> None:
        """Charge a subject. The time goes on to that of the one that is furthest behind, itself included."""
        started_s = self.used(subject)
        self.now_s = min([started_s, *(self.used(one) for one in waiting)])
        self._used_s[subject] = started_s + charged_s

    def give_back(self, subject: object, unused_s: float) -> None:
        if subject in self._used_s:
            self._used_s[subject] -= unused_s

    def drop_idle(self, waiting: Set[object]) -> None:
        if len(self._used_s) > _IDLE_CLOCKS_KEPT:
            self._used_s = {
                one: used for one, used in self._used_s.items() if one in waiting or used > self.now_s
            }


class _Waiting:
    """Jobs that wait, by account and group, each in order of arrival."""

    def __init__(self) -> None:
        self.groups: dict[str, Group] = {}
        self.accounts: dict[str, dict[Group, dict[str, int]]] = {}
        self._arrivals = itertools.count()

    def add(self, job: str, group: Group) -> None:
        self.groups[job] = group
        jobs = self.accounts.setdefault(group.flow.account, {}).setdefault(group, {})
        jobs[job] = next(self._arrivals)

    def discard(self, job: str) -> None:
        group = self.groups.pop(job, None)
        if group is None:
            return
        groups = self.accounts[group.flow.account]
        del groups[group][job]
        if not groups[group]:
            del groups[group]
        if not groups:
            del self.accounts[group.flow.account]

    def count(self, account: str) -> int:
        return sum(len(jobs) for jobs in self.accounts.get(account, {}).values())

    def postpone(self, job: str) -> None:
        """Have a job wait behind the others of its group, if it waits here."""
        group = self.groups.get(job)
        if group is not None:
            self.discard(job)
            self.add(job, group)

    def heads(self, account: str, tried: set[str], passed_over: set[Group]) -> dict[Group, tuple[str, int]]:
        """The first job of each of the account's groups, with its arrival.

        Left out are groups whose first job was tried: one that was tried has gone to the end.
        """
        heads = {
            group: next(iter(jobs.items()))
            for group, jobs in self.accounts[account].items()
            if group not in passed_over
        }
        return {group: head for group, head in heads.items() if head[0] not in tried}


class AuditQueue:
    """Jobs that wait for an auditor. Not `fair`, it serves them in order of arrival, undecided ones first.

    Not `by_history`, all jobs of a flow are one group, as in older journals.
    """

    def __init__(self, *, fair: bool, by_history: bool = True) -> None:
        self._fair = fair
        self._by_history = by_history
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._undecided = _Waiting()
        self._spot_checks = _Waiting()
        self._accounts = _Clocks()
        self._flows = _Clocks()
        self._running: dict[str, _Charge] = {}

    def __contains__(self, job: object) -> bool:
        return job in self._undecided.groups or job in self._spot_checks.groups

    @property
    def undecided(self) -> list[str]:
        """The jobs that wait for an auditor to decide them, in order of arrival."""
        return list(self._undecided.groups)

    @property
    def undecided_count(self) -> int:
        """How many jobs wait for an auditor to decide them."""
        return len(self._undecided.groups)

    def add(self, job: str, flow: Flow, *, is_decided: bool, history: tuple[str, ...] = ()) -> None:
        """Let a job wait that does not yet; `is_decided` says that it waits for a spot check.

        `history` names its reference runs so far, as far as they matter for who may make the next.
        """
        group = Group(flow, history if self._by_history else ())
        (self._spot_checks if is_decided else self._undecided).add(job, group)
        if self._fair:
            self._accounts.start(flow.account)
            self._flows.start(flow)

    def discard(self, job: str) -> None:
        """Let a job wait no more."""
        self._undecided.discard(job)
        self._spot_checks.discard(job)

    def has_room(self, account: str, backlog_max: int) -> bool:
        """Whether one more spot check of an account may wait: all that wait share `backlog_max` equally."""
        waiting = self._spot_checks
        if not self._fair:
            return len(waiting.groups) < backlog_max
        sharing = len(waiting.accounts) + (account not in waiting.accounts)
        return waiting.count(account) < backlog_max // sharing

    def begin(self, lease: str, flow: Flow, *, limit_s: float, at: float) -> None:
        """A reference run of this flow begins, which may take `limit_s`."""
        if self._fair:
            self._accounts.serve(flow.account, limit_s, self._waiting_accounts())
            self._flows.serve(flow, limit_s, self._waiting_flows())
            self._running[lease] = _Charge(flow, at, limit_s)

    def end(self, lease: str, at: float) -> None:
        """A reference run has ended; any other lease is ignored."""
        charge = self._running.pop(lease, None)
        if charge is not None:
            unused_s = max(0.0, charge.charged_s - (at - charge.begun_at))
            self._accounts.give_back(charge.flow.account, unused_s)
            self._flows.give_back(charge.flow, unused_s)
            self._accounts.drop_idle(self._waiting_accounts())
            self._flows.drop_idle(self._waiting_flows())

    def in_turn(self, suits: Callable[[str], bool] = lambda _: True) -> Iterator[str]:
        """Every job that waits now, each chosen when it is asked for. The caller takes each one out.

        Where one does not suit, all of its group is passed over, and begins with another job the next time:
        what an auditor cannot run costs a look, however many such jobs wait.
        """
        tried: set[str] = set()
        passed_over: set[Group] = set()
        while (job := self._next(tried, passed_over)) is not None:
            tried.add(job)
            if suits(job):
                yield job
            else:
                waiting = self._undecided if job in self._undecided.groups else self._spot_checks
                passed_over.add(waiting.groups[job])
                if not self._by_history:
                    waiting.postpone(job)

    def _waiting_accounts(self) -> set[str]:
        return {*self._undecided.accounts, *self._spot_checks.accounts}

    def _waiting_flows(self) -> set[Flow]:
        waiting = (self._undecided, self._spot_checks)
        return {group.flow for one in waiting for groups in one.accounts.values() for group in groups}

    def _next(self, tried: set[str], passed_over: set[Group]) -> str | None:
        undecided = self._first(self._undecided, tried, passed_over)
        spot_check = self._first(self._spot_checks, tried, passed_over)
        if undecided is None or spot_check is None or not self._fair:
            return undecided or spot_check
        used_s = self._accounts.used(self._undecided.groups[undecided].flow.account)
        is_behind = used_s <= self._accounts.used(self._spot_checks.groups[spot_check].flow.account)
        return undecided if is_behind or used_s <= self._accounts.now_s + _AHEAD_S else spot_check

    def _first(self, waiting: _Waiting, tried: set[str], passed_over: set[Group]) -> str | None:
        if not self._fair:
            jobs = waiting.groups.items()
            return next((job for job, group in jobs if job not in tried and group not in passed_over), None)
        for account in sorted(waiting.accounts, key=self._accounts.used):
            heads = waiting.heads(account, tried, passed_over)
            if heads:
                return heads[min(heads, key=lambda group: self._rank(group, heads[group][1]))][0]
        return None

    def _rank(self, group: Group, arrival: int) -> tuple[float, int]:
        return self._flows.used(group.flow), arrival if self._by_history else 0
