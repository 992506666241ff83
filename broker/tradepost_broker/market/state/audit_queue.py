"""Which job the next auditor that has time makes a reference run of.

Auditors' time is shared by start-time fair queueing (Goyal, Vin and Cheng, 1996): each account has a clock
that runs by the auditor time it uses, an account that begins to wait starts at the clock of the one that is
furthest behind, and that one is next. So an account that floods the auditors waits for itself. Within
an account, its pipelines share in the same way. A job that waits to be decided comes before spot checks of
decided ones, unless its account is more than `_AHEAD_S` ahead of its share.

A run is charged its pipeline's time limit when it begins, and what it did not use is given back at its end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Set
from typing import Final, NamedTuple

#: How far ahead of its share, in seconds of auditor time, an account's undecided jobs still come first.
_AHEAD_S: Final = 60.0
#: How many different terms of one flow an idle auditor looks at; submitters make as many as they like.
_LOOKS_MAX: Final = 16
#: Clocks of accounts that wait for nothing are dropped beyond this number.
_IDLE_CLOCKS_KEPT: Final = 1_024


class Flow(NamedTuple):
    """Whose time a reference run uses."""

    account: str
    pipeline: str


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


class _Line(NamedTuple):
    """Jobs of a flow that suit the same auditors."""

    flow: Flow
    terms: Hashable


class _Waiting:
    """Jobs that wait, by account, pipeline and terms, each in order of arrival."""

    def __init__(self) -> None:
        self.lines: dict[str, _Line] = {}
        self.accounts: dict[str, dict[Flow, dict[_Line, dict[str, int]]]] = {}
        self._arrivals = 0

    def add(self, job: str, line: _Line) -> None:
        self.lines[job] = line
        lines = self.accounts.setdefault(line.flow.account, {}).setdefault(line.flow, {})
        self._arrivals += 1
        lines.setdefault(line, {})[job] = self._arrivals

    def discard(self, job: str) -> None:
        line = self.lines.pop(job, None)
        if line is None:
            return
        flows = self.accounts[line.flow.account]
        lines = flows[line.flow]
        del lines[line][job]
        if not lines[line]:
            del lines[line]
        if not lines:
            del flows[line.flow]
        if not flows:
            del self.accounts[line.flow.account]

    def postpone(self, job: str) -> None:
        """Have a job wait behind the others of its flow, if it waits here."""
        line = self.lines.get(job)
        if line is not None:
            self.discard(job)
            self.add(job, line)

    def heads(self, account: str, tried: set[str], passed_over: _PassedOver) -> dict[Flow, str]:
        """The job that each of the account's flows begins with. One that was tried has gone to the end."""
        heads: dict[Flow, str] = {}
        for flow, lines in self.accounts[account].items():
            firsts = [
                (arrival, job)
                for line, jobs in lines.items()
                for job, arrival in [next(iter(jobs.items()))]
                if job not in tried and not passed_over.holds(line)
            ]
            if firsts:
                heads[flow] = min(firsts)[1]
        return heads


class _PassedOver:
    """What an auditor cannot run: lines, and all of a flow of which it has looked at many."""

    def __init__(self) -> None:
        self._lines: set[_Line] = set()
        self._looks: Counter[Flow] = Counter()

    def add(self, line: _Line) -> None:
        self._lines.add(line)
        self._looks[line.flow] += 1

    def holds(self, line: _Line) -> bool:
        return line in self._lines or self._looks[line.flow] >= _LOOKS_MAX


class AuditQueue:
    """Jobs that wait for an auditor. Not `fair`, it serves them in order of arrival, undecided ones first."""

    def __init__(self, *, fair: bool) -> None:
        self._fair = fair
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._undecided = _Waiting()
        self._spot_checks = _Waiting()
        self._accounts = _Clocks()
        self._flows = _Clocks()
        self._running: dict[str, _Charge] = {}
        #: Spot checks that take no room, and how many of the others wait, in all and by account.
        self._roomless: set[str] = set()
        self._counts: Counter[str] = Counter()

    def __contains__(self, job: object) -> bool:
        return job in self._undecided.lines or job in self._spot_checks.lines

    @property
    def undecided(self) -> list[str]:
        """The jobs that wait for an auditor to decide them, in order of arrival."""
        return list(self._undecided.lines)

    @property
    def undecided_count(self) -> int:
        """How many jobs wait for an auditor to decide them."""
        return len(self._undecided.lines)

    def add(
        self, job: str, flow: Flow, *, is_decided: bool, takes_room: bool = True, terms: Hashable = ()
    ) -> None:
        """Let a job wait that does not yet; `is_decided` says that it waits for a spot check.

        Unless it `takes_room`, no other spot check has to wait outside because of it. Jobs of a flow with
        equal `terms` suit the same auditors.
        """
        is_new = is_decided and job not in self._spot_checks.lines
        (self._spot_checks if is_decided else self._undecided).add(job, _Line(flow, terms))
        if is_new and takes_room:
            self._counts[flow.account] += 1
        elif is_new:
            self._roomless.add(job)
        if self._fair:
            self._accounts.start(flow.account)
            self._flows.start(flow)

    def discard(self, job: str) -> None:
        """Let a job wait no more."""
        self._undecided.discard(job)
        line = self._spot_checks.lines.get(job)
        self._spot_checks.discard(job)
        if job in self._roomless:
            self._roomless.discard(job)
        elif line is not None:
            account = line.flow.account
            self._counts[account] -= 1
            if not self._counts[account]:
                del self._counts[account]

    def has_room(self, account: str, backlog_max: int) -> bool:
        """Whether one more spot check of an account may wait: all that wait share `backlog_max` equally."""
        if not self._fair:
            return self._counts.total() < backlog_max
        sharing = len(self._counts) + (account not in self._counts)
        return self._counts[account] < backlog_max // sharing

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

        Where one does not suit, all of its flow with the same terms is passed over, and begins with another
        job the next time: what an auditor cannot run costs a look, however many such jobs wait.
        """
        tried: set[str] = set()
        passed_over = _PassedOver()
        while (job := self._next(tried, passed_over)) is not None:
            tried.add(job)
            if suits(job):
                yield job
            else:
                waiting = self._undecided if job in self._undecided.lines else self._spot_checks
                passed_over.add(waiting.lines[job])
                waiting.postpone(job)

    def _waiting_accounts(self) -> set[str]:
        return {*self._undecided.accounts, *self._spot_checks.accounts}

    def _waiting_flows(self) -> set[Flow]:
        waiting = (self._undecided, self._spot_checks)
        return {flow for one in waiting for flows in one.accounts.values() for flow in flows}

    def _next(self, tried: set[str], passed_over: _PassedOver) -> str | None:
        undecided = self._first(self._undecided, tried, passed_over)
        spot_check = self._first(self._spot_checks, tried, passed_over)
        if undecided is None or spot_check is None or not self._fair:
            return undecided or spot_check
        used_s = self._accounts.used(self._undecided.lines[undecided].flow.account)
        is_behind = used_s <= self._accounts.used(self._spot_checks.lines[spot_check].flow.account)
        return undecided if is_behind or used_s <= self._accounts.now_s + _AHEAD_S else spot_check

    def _first(self, waiting: _Waiting, tried: set[str], passed_over: _PassedOver) -> str | None:
        if not self._fair:
            lines = waiting.lines.items()
            return next(
                (job for job, line in lines if job not in tried and not passed_over.holds(line)), None
            )
        for account in sorted(waiting.accounts, key=self._accounts.used):
            heads = waiting.heads(account, tried, passed_over)
            if heads:
                return heads[min(heads, key=self._flows.used)]
        return None
