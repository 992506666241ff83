"""The ledger by readable tables, and by a state machine that audits it against its own transfers.

A table is a script. Each line is an operation and, after `=>`, what it gives: `ok`, `same` (nothing changed)
or the error. A line `name: available reserved` states a balance at that point.
"""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from tradepost.errors import (
    InsufficientFunds,
    InvariantBroken,
    TradepostError,
    TransferConflict,
)
from tradepost_broker.market.ledger import (
    SUPPLY_MICROCREDITS,
    TREASURY,
    Kind,
    Ledger,
    Reservation,
    credits_of,
    earned_of,
    held_of,
    stake_of,
)
from tradepost_broker.market.model.entities import Account, Transfer

TABLES = {
    "funding moves credits out of the treasury, once per id": f"""
        fund f1 alice 100                 => ok
        treasury:operator: {SUPPLY_MICROCREDITS - 100} 0
        credits:alice: 100 0
        fund f1 alice 100                 => same
        fund f1 alice 101                 => TransferConflict
        fund f1 bob 100                   => TransferConflict
        fund f2 alice 0                   => InvalidRequest
        fund f2 alice -5                  => InvalidRequest
        fund f2 alice {SUPPLY_MICROCREDITS} => TreasuryExhausted
        credits:alice: 100 0
    """,
    "a reservation is set aside, and freed when voided": """
        fund f1 alice 100                 => ok
        reserve j1 alice 60               => ok
        credits:alice: 40 60
        reserve j2 alice 41               => InsufficientFunds
        reserve j2 alice 40               => ok
        credits:alice: 0 100
        void j1                           => ok
        credits:alice: 60 40
        void j1                           => same
        void unknown                      => same
        credits:alice: 60 40
    """,
    "a job can be reserved for once, and not with nothing": """
        fund f1 alice 100                 => ok
        reserve j1 alice 10               => ok
        reserve j1 alice 10               => InvariantBroken
        reserve j2 alice 0                => InvariantBroken
        reserve j3 nobody 1               => InsufficientFunds
        credits:alice: 90 10
    """,
    "payment posts a part of the reservation into the hold, once per lease": """
        fund f1 alice 100                 => ok
        reserve j1 alice 60               => ok
        pay j1 l1 w1 25                   => ok
        credits:alice: 40 35
        held:w1: 25 0
        pay j1 l1 w1 25                   => same
        pay j1 l1 w1 24                   => InvariantBroken
        pay j1 l2 w2 36                   => InvariantBroken
        pay j1 l2 w2 35                   => ok
        credits:alice: 40 0
        void j1                           => same
        pay j1 l1 w1 25                   => same
        credits:alice: 40 0
        held:w2: 35 0
    """,
    "nothing is paid without a reservation": """
        fund f1 alice 100                 => ok
        pay j1 l1 w1 1                    => InvariantBroken
        reserve j1 alice 10               => ok
        void j1                           => ok
        pay j1 l1 w1 1                    => InvariantBroken
        credits:alice: 100 0
    """,
    "what is held matures to earnings, once": """
        fund f1 alice 100                 => ok
        reserve j1 alice 60               => ok
        pay j1 l1 w1 25                   => ok
        mature l1 w1 25                   => ok
        mature l1 w1 25                   => same
        held:w1: 0 0
        earned:w1: 25 0
        claw_back j1 l1 w1 alice 25       => InvariantBroken
    """,
    "what is held can be clawed back, once": """
        fund f1 alice 100                 => ok
        reserve j1 alice 60               => ok
        pay j1 l1 w1 25                   => ok
        void j1                           => ok
        claw_back j1 l1 w1 alice 25       => ok
        claw_back j1 l1 w1 alice 25       => same
        held:w1: 0 0
        credits:alice: 100 0
        mature l1 w1 25                   => InvariantBroken
    """,
    "stages are paid like a result, and a lease is paid once for either": """
        fund f1 alice 100                 => ok
        reserve j1 alice 60               => ok
        pay_stages j1 l1 w1 25            => ok
        pay_stages j1 l1 w1 25            => same
        pay j1 l1 w1 25                   => same
        pay j1 l1 w1 35                   => InvariantBroken
        pay_stages j1 l2 w2 36            => InvariantBroken
        held:w1: 25 0
        credits:alice: 40 35
        mature l1 w1 25                   => ok
        earned:w1: 25 0
    """,
    "a stake goes back to the treasury when slashed, whole and once": f"""
        stake w1 500                      => ok
        stake:w1: 500 0
        stake w1 500                      => same
        stake w2 {SUPPLY_MICROCREDITS} => TreasuryExhausted
        stake w3 0                        => same
        slash w1                          => ok
        slash w1                          => same
        slash unknown                     => same
        stake:w1: 0 0
        treasury:operator: {SUPPLY_MICROCREDITS} 0
    """,
}


class Script:
    """Runs the lines of a table on a ledger."""

    def __init__(self) -> None:
        self.saved: list[Account | Transfer] = []
        self.ledger = Ledger(save=self.saved.append)

    def run(self, line: str) -> None:
        if "=>" not in line:
            account, _, balance = line.rpartition(": ")
            entry = self.ledger.account(account)
            assert f"{entry.available_microcredits} {entry.reserved_microcredits}" == balance, line
            return
        operation, _, expected = (part.strip() for part in line.partition("=>"))
        assert self.result_of(operation.split()) == expected, line
        assert self.ledger.total_microcredits() == SUPPLY_MICROCREDITS

    def result_of(self, words: list[str]) -> str:
        self.saved.clear()
        try:
            self.apply(words)
        except TradepostError as error:
            assert not self.saved, f"{words} was rejected after it changed the state"
            return type(error).__name__
        return "ok" if self.saved else "same"

    def apply(self, words: list[str]) -> None:
        ledger = self.ledger
        match words:
            case ["fund", transfer, account, amount]:
                ledger.fund(transfer, account, int(amount), at=1.0)
            case ["stake", worker, amount]:
                ledger.stake(worker, int(amount), at=1.0)
            case ["reserve", job, account, amount]:
                ledger.reserve(job, account, int(amount))
            case ["pay", job, lease, worker, amount]:
                ledger.pay(job, lease, worker, int(amount), at=1.0)
            case ["pay_stages", job, lease, worker, amount]:
                ledger.pay(job, lease, worker, int(amount), at=1.0, kind=Kind.PAY_STAGES)
            case ["void", job]:
                ledger.void(job)
            case ["mature", lease, worker, amount]:
                ledger.mature(lease, worker, int(amount), at=1.0)
            case ["claw_back", job, lease, worker, account, amount]:
                ledger.claw_back(job, lease, worker, account, int(amount), at=1.0)
            case ["slash", worker]:
                ledger.slash(worker, at=1.0)
            case _:
                raise AssertionError(f"no such operation: {words}")


@pytest.mark.parametrize("title", TABLES)
def test_table(title: str) -> None:
    script = Script()
    for line in TABLES[title].strip().splitlines():
        script.run(line.strip())


def test_transfers_say_what_moved_and_why() -> None:
    script = Script()
    for line in (
        "fund f1 alice 100",
        "reserve j1 alice 60",
        "pay j1 l1 w1 25",
        "pay_stages j1 l2 w2 5",
    ):
        script.apply(line.split())
    transfers = [record for record in script.saved if isinstance(record, Transfer)]
    assert [(t.id, t.debit, t.credit, t.amount_microcredits, t.kind, t.job, t.lease) for t in transfers] == [
        ("f1", TREASURY, "credits:alice", 100, "fund", "", ""),
        ("l1:pay", "credits:alice", "held:w1", 25, "pay", "j1", "l1"),
        ("l2:pay", "credits:alice", "held:w2", 5, "pay_stages", "j1", "l2"),
    ]


def test_insufficient_funds_carries_the_facts() -> None:
    script = Script()
    script.apply(["fund", "f1", "alice", "1500000"])
    with pytest.raises(InsufficientFunds, match=r"2 credits needed, 1\.5 available") as raised:
        script.ledger.reserve("j1", "alice", 2_000_000)
    assert raised.value.facts == {"needed_microcredits": 2_000_000, "available_microcredits": 1_500_000}


def test_forgotten_ids_are_those_of_the_lease_only() -> None:
    script = Script()
    for line in ("fund f1 alice 100", "reserve j1 alice 60", "pay j1 l1 w1 25", "pay j1 l2 w2 25"):
        script.apply(line.split())
    script.ledger.forget("l1")
    assert script.result_of(["pay", "j1", "l2", "w2", "25"]) == "same"
    assert script.result_of(["fund", "f1", "alice", "100"]) == "same"


def test_it_continues_from_its_accounts_and_fundings() -> None:
    script = Script()
    for line in ("fund f1 alice 100", "reserve j1 alice 60"):
        script.apply(line.split())
    transfers = [record for record in script.saved if isinstance(record, Transfer)]
    script.ledger = Ledger(save=script.saved.append, accounts=script.ledger.accounts(), transfers=transfers)
    script.ledger.restore_reservations({"j1": Reservation("alice", 60)})
    assert script.result_of(["fund", "f1", "alice", "100"]) == "same"
    assert script.result_of(["pay", "j1", "l1", "w1", "60"]) == "ok"


def test_records_that_contradict_each_other_are_refused() -> None:
    script = Script()
    for line in ("fund f1 alice 100", "reserve j1 alice 60"):
        script.apply(line.split())
    with pytest.raises(InvariantBroken, match="reserves 60, jobs 0"):
        script.ledger.restore_reservations({})
    with pytest.raises(InvariantBroken, match="not to the supply"):
        Ledger(save=script.saved.append, accounts=[Account(id=TREASURY, available_microcredits=1)])


class LedgerAuditor(RuleBasedStateMachine):
    """Does anything in any order; balances must follow from the transfers, and stay non-negative."""

    jobs = Bundle("jobs")
    paid = Bundle("paid")

    @initialize()
    def open_books(self) -> None:
        self.transfers: dict[str, Transfer] = {}
        self.ledger = Ledger(save=self.record)
        self.reserved: dict[str, tuple[str, int]] = {}
        self.count = 0

    def record(self, saved: Account | Transfer) -> None:
        if isinstance(saved, Transfer):
            assert saved.id not in self.transfers, f"{saved.id} happened twice"
            self.transfers[saved.id] = saved

    @rule(account=st.sampled_from("ab"), amount=st.integers(1, 1000), name=st.sampled_from("xyz"))
    def fund(self, account: str, amount: int, name: str) -> None:
        try:
            self.ledger.fund(name, account, amount, at=0.0)
        except TransferConflict:
            assert name in self.transfers

    @rule(target=jobs, account=st.sampled_from("ab"), amount=st.integers(1, 1000))
    def reserve(self, account: str, amount: int) -> str:
        self.count += 1
        job = f"j{self.count}"
        before = self.ledger.account(credits_of(account)).available_microcredits
        try:
            self.ledger.reserve(job, account, amount)
            self.reserved[job] = (account, amount)
        except InsufficientFunds:
            assert before < amount
        return job

    @rule(
        target=paid,
        job=jobs,
        worker=st.sampled_from("vw"),
        amount=st.integers(1, 1000),
        kind=st.sampled_from([Kind.PAY, Kind.PAY_STAGES]),
    )
    def pay(self, job: str, worker: str, amount: int, kind: str) -> tuple[str, str, str, int]:
        self.count += 1
        lease = f"l{self.count}"
        account, left = self.reserved.get(job, ("a", 0))
        if amount > left:
            with pytest.raises(InvariantBroken):
                self.ledger.pay(job, lease, worker, amount, at=0.0, kind=kind)
            return lease, worker, account, 0
        self.ledger.pay(job, lease, worker, amount, at=0.0, kind=kind)
        self.reserved[job] = (account, left - amount)
        return lease, worker, account, amount

    @rule(job=jobs)
    def void(self, job: str) -> None:
        assert self.ledger.void(job) == self.reserved.pop(job, ("", 0))[1]

    @rule(payment=consumes(paid), matures=st.booleans(), twice=st.booleans())
    def settle(self, payment: tuple[str, str, str, int], matures: bool, twice: bool) -> None:
        lease, worker, account, amount = payment
        for _ in range(1 + twice if amount else 0):
            if matures:
                self.ledger.mature(lease, worker, amount, at=0.0)
            else:
                self.ledger.claw_back("j", lease, worker, account, amount, at=0.0)

    @rule(worker=st.sampled_from("vw"), amount=st.integers(0, 100))
    def stake(self, worker: str, amount: int) -> None:
        if f"{worker}:stake" not in self.transfers:
            self.ledger.stake(worker, amount, at=0.0)

    @rule(worker=st.sampled_from("vw"))
    def slash(self, worker: str) -> None:
        had = self.ledger.account(stake_of(worker)).available_microcredits
        if f"{worker}:slash" not in self.transfers:
            assert self.ledger.slash(worker, at=0.0) == had

    @invariant()
    def books_balance(self) -> None:
        if not hasattr(self, "ledger"):
            return
        assert self.ledger.total_microcredits() == SUPPLY_MICROCREDITS
        balances = {TREASURY: SUPPLY_MICROCREDITS}
        for transfer in self.transfers.values():
            balances[transfer.debit] = balances.get(transfer.debit, 0) - transfer.amount_microcredits
            balances[transfer.credit] = balances.get(transfer.credit, 0) + transfer.amount_microcredits
        for account in self.ledger.accounts():
            assert account.available_microcredits >= 0
            assert account.reserved_microcredits >= 0
            assert account.available_microcredits + account.reserved_microcredits == balances.get(
                account.id, 0
            )
        for name in "ab":
            expected = sum(amount for account, amount in self.reserved.values() if account == name)
            assert self.ledger.account(credits_of(name)).reserved_microcredits == expected
        for name in "vw":
            for purse in (held_of(name), earned_of(name), stake_of(name)):
                assert self.ledger.account(purse).reserved_microcredits == 0


LedgerAuditor.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLedgerAuditor = LedgerAuditor.TestCase
