"""Money: no credit is made or lost, no account is below zero, nothing is paid twice or beyond its cap."""

from __future__ import annotations

from collections import defaultdict

from tradepost_broker.market.ledger import SUPPLY_MICROCREDITS, TREASURY, Kind, held_of, stake_of
from tradepost_broker.market.model.entities import Account, Job, Lease, LeaseState, Transfer, Worker
from tradepost_broker.market.model.job_states import FINAL
from tradepost_broker.market.model.lease_states import LIVE
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.simulation.invariants.broken import require

_PAID = frozenset({Kind.PAY, Kind.PAY_STAGES, Kind.PAY_BEGUN})


class Books:
    """Balances as the transfers give them, and the escrow as the jobs give it."""

    def __init__(self, policy: MarketPolicy) -> None:
        self._policy = policy
        self._balances: dict[str, int] = defaultdict(int, {TREASURY: SUPPLY_MICROCREDITS})
        self._accounts: dict[str, Account] = {}
        self._caps: dict[str, tuple[str, int]] = {}
        self._reserved: dict[str, int] = defaultdict(int)
        #: What each lease was paid, when, and whether the payment is still held; what each job paid.
        self._paid: dict[str, tuple[float, int]] = {}
        self._held: dict[str, int] = defaultdict(int)
        self._paid_by_job: dict[str, int] = defaultdict(int)
        self._staked: set[str] = set()
        #: The holds of workers that are expelled.
        self._expelled: set[str] = set()

    def event(self, records: dict[type, list[object]], at: float) -> None:
        """Take one event's changes into account, and check them."""
        for transfer in records.get(Transfer, ()):
            assert isinstance(transfer, Transfer)
            self._move(transfer, at)
        for job in records.get(Job, ()):
            assert isinstance(job, Job)
            self._reserve(job)
        touched: list[Account] = []
        for account in records.get(Account, ()):
            assert isinstance(account, Account)
            self._accounts[account.id] = account
            touched.append(account)
        for account in touched:
            self._check_account(account)
        if touched:
            self._check_escrow(touched)

    def lease(self, lease: Lease) -> None:
        """Check what a lease says of its payment."""
        paid_at, paid_microcredits = self._paid.get(lease.id, (0.0, 0))
        require(
            lease.paid_microcredits == paid_microcredits,
            f"lease {lease.id} says it was paid {lease.paid_microcredits}, the transfers {paid_microcredits}",
        )
        if lease.matures_at is not None:
            require(
                lease.matures_at >= paid_at + self._policy.hold_s, f"lease {lease.id} matures before its hold"
            )

    def at_stake_microcredits(self, worker: str) -> int:
        """What a worker would lose if it were expelled now."""
        return self._balances[stake_of(worker)] + self._balances[held_of(worker)]

    def expelled(self, worker: Worker) -> None:
        """An expelled worker has nothing left to lose."""
        require(not self._balances[stake_of(worker.id)], f"{worker.id} is expelled and keeps its stake")
        self._expelled.add(held_of(worker.id))
        if not self._policy.reexamine_s:  # else it is refunded a part in each event
            require(not self._balances[held_of(worker.id)], f"{worker.id} is expelled and keeps its hold")

    def job(self, job: Job, live: list[Lease]) -> None:
        """Check what a job says of its payments."""
        require(
            job.paid_microcredits == self._paid_by_job[job.id],
            f"job {job.id} says it paid {job.paid_microcredits}, the transfers {self._paid_by_job[job.id]}",
        )
        require(job.paid_microcredits <= job.max_price_microcredits, f"job {job.id} paid more than its cap")
        committed_microcredits = sum(lease.price_microcredits for lease in live if lease.state in LIVE)
        require(
            job.committed_microcredits == committed_microcredits <= job.max_price_microcredits,
            f"job {job.id} commits {job.committed_microcredits}, its leases {committed_microcredits}",
        )

    def at_rest(self) -> None:
        """Check that nothing is reserved or held, once all jobs have ended and their holds are over."""
        for account in self._accounts.values():
            require(not account.reserved_microcredits, f"{account.id} still has credits reserved")
            if account.id.startswith("held:"):
                require(not account.available_microcredits, f"{account.id} still holds a payment")

    def _move(self, transfer: Transfer, at: float) -> None:
        amount_microcredits = transfer.amount_microcredits
        require(amount_microcredits > 0, f"transfer {transfer.id} moves {amount_microcredits}")
        self._balances[transfer.debit] -= amount_microcredits
        self._balances[transfer.credit] += amount_microcredits
        if transfer.kind == Kind.STAKE:
            require(transfer.credit not in self._staked, f"{transfer.credit} was staked twice")
            self._staked.add(transfer.credit)
        lease = transfer.id.rpartition(":")[0]
        if transfer.kind in _PAID:
            require(lease not in self._paid, f"lease {lease} is paid twice")
            self._paid[lease] = (at, amount_microcredits)
            self._held[lease] = amount_microcredits
            self._paid_by_job[transfer.job] += amount_microcredits
        elif transfer.kind in {Kind.MATURE, Kind.CLAW_BACK}:
            require(
                self._held.pop(lease, 0) == amount_microcredits,
                f"transfer {transfer.id} moves {amount_microcredits}, which were not held",
            )
            if transfer.kind == Kind.MATURE:
                over_at = self._paid[lease][0] + self._policy.hold_s
                require(at >= over_at, f"the payment of lease {lease} matured before its hold was over")
                require(transfer.debit not in self._expelled, f"lease {lease} of an expelled worker matured")
            else:
                self._paid[lease] = (at, 0)
                self._paid_by_job[transfer.job] -= amount_microcredits

    def _reserve(self, job: Job) -> None:
        before = self._caps.get(job.id)
        if job.status in FINAL:
            if before is not None:
                self._reserved[before[0]] -= before[1]
                del self._caps[job.id]
        elif before is None:
            self._caps[job.id] = (job.account, job.cap_microcredits)
            self._reserved[job.account] += job.cap_microcredits

    def _check_account(self, account: Account) -> None:
        available, reserved = account.available_microcredits, account.reserved_microcredits
        require(available >= 0 and reserved >= 0, f"account {account.id} is below zero")
        balance = self._balances[account.id]
        require(
            available + reserved == balance,
            f"account {account.id} has {available + reserved}, its transfers give {balance}",
        )

    def _check_escrow(self, accounts: list[Account]) -> None:
        for account in accounts:
            purpose, _, owner = account.id.partition(":")
            if purpose != "credits":
                continue
            require(
                account.reserved_microcredits == self._reserved[owner],
                f"{account.id} reserves {account.reserved_microcredits}, the open jobs' caps give "
                f"{self._reserved[owner]}",
            )


def check_stage_payment(lease: Lease, amount_microcredits: int, accepted: list[Lease]) -> None:
    """A preempted lease is paid for the stages that an accepted result confirms, by that result's clock."""
    require(lease.state is LeaseState.PREEMPTED, f"lease {lease.id} is {lease.state}, and paid by stage")
    bounds = []
    for result in accepted:
        pairs = zip(lease.stage_hashes, result.stage_hashes, strict=False)
        confirmed = next(
            (n for n, (ours, theirs) in enumerate(pairs) if ours != theirs), len(lease.stage_hashes)
        )
        clock = result.stage_wall_us
        bounds.append(lease.price_microcredits * sum(clock[:confirmed]) // max(1, sum(clock)))
    require(
        amount_microcredits <= max(bounds),
        f"lease {lease.id} is paid {amount_microcredits} for its stages, which are worth {max(bounds)}",
    )
