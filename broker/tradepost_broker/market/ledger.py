"""The ledger: double entry in integer microcredits. No credit is created, lost or moved twice.

Accounts are `<purpose>:<owner>`. All credits start in the treasury; a transfer takes from one account what it
gives to another, so the sum never changes, and none goes below zero. Escrow has two phases: `reserve` sets a
job's cap aside within its account, then `pay` posts parts of it to workers and `void` frees the rest.

        treasury --fund--> credits --pay--> held --mature--> earned
           |  ^               ^               |
         stake `--slash--.    `--claw back----'
           `--> stake ---'

A transfer's id is derived from the record that causes it (`<lease>:pay`), and an id that is known changes
nothing. Ids are remembered as long as the record that they derive from is in memory, which is as long as any
event could cause them again: `forget` follows the record out. Funding ids come from people and are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from tradepost.errors import InsufficientFunds, InvalidRequest, TransferConflict, TreasuryExhausted, invariant
from tradepost.money import MICROCREDITS_MAX, counted_credits, format_credits
from tradepost_broker.market.model.amounts import AMOUNT_MAX_MICROCREDITS
from tradepost_broker.market.model.entities import Account, Transfer

TREASURY: Final = "treasury:operator"
#: All the microcredits that there are.
SUPPLY_MICROCREDITS: Final = AMOUNT_MAX_MICROCREDITS


class Kind:
    """Why credits moved."""

    FUND: Final = "fund"
    STAKE: Final = "stake"
    PAY: Final = "pay"
    PAY_STAGES: Final = "pay_stages"
    PAY_BEGUN: Final = "pay_begun"
    MATURE: Final = "mature"
    CLAW_BACK: Final = "claw_back"
    SLASH: Final = "slash"


class Reservation(NamedTuple):
    """The credits still reserved for one job."""

    account: str
    amount_microcredits: int


def credits_of(account: str) -> str:
    """The ledger account of a submitter's credits."""
    return f"credits:{account}"


def held_of(worker: str) -> str:
    """The ledger account of what a worker was paid and may still lose."""
    return f"held:{worker}"


def earned_of(worker: str) -> str:
    """The ledger account of a worker's matured earnings."""
    return f"earned:{worker}"


def stake_of(worker: str) -> str:
    """The ledger account of what a worker stands to lose."""
    return f"stake:{worker}"


class Ledger:
    """Accounts, open reservations, and the only code that changes them. Calls `save` for each change."""

    def __init__(
        self,
        *,
        save: Callable[[Account | Transfer], None],
        accounts: Iterable[Account] = (),
        transfers: Iterable[Transfer] = (),
    ) -> None:
        """Start from known accounts, or with all the supply in the treasury if there are none."""
        self._save = save
        self._accounts = {account.id: account for account in accounts}
        if not self._accounts:
            self._accounts[TREASURY] = Account(id=TREASURY, available_microcredits=SUPPLY_MICROCREDITS)
        self._applied = {transfer.id: _what(transfer) for transfer in transfers}
        self._reservations: dict[str, Reservation] = {}
        invariant(
            self.total_microcredits() == SUPPLY_MICROCREDITS,
            f"the accounts sum to {self.total_microcredits()}, not to the supply",
        )

    def fund(self, transfer: str, account: str, amount_microcredits: int, *, at: float) -> None:
        """Move credits from the treasury to a submitter, once per `transfer` id.

        Raises `InvalidRequest`, `TreasuryExhausted`, or `TransferConflict` for an id used otherwise.
        """
        if amount_microcredits <= 0:
            raise InvalidRequest(f"cannot fund {account} with {counted_credits(amount_microcredits)}")
        wanted = _entry(transfer, TREASURY, credits_of(account), amount_microcredits, Kind.FUND, at)
        known = self._applied.get(transfer)
        if known is not None and known != _what(wanted):
            earlier, target = format_credits(known[2]), known[1].removeprefix(credits_of(""))
            raise TransferConflict(f"{transfer.removeprefix('fund:')} gave {target} {earlier} credits")
        if known is None:
            self._require(TREASURY, amount_microcredits)
            self._require_countable(account, amount_microcredits)
            self._apply(wanted)

    def _require_countable(self, account: str, amount_microcredits: int) -> None:
        entry = self.account(credits_of(account))
        total_microcredits = entry.available_microcredits + entry.reserved_microcredits + amount_microcredits
        if total_microcredits > MICROCREDITS_MAX:
            raise InvalidRequest(
                f"{account} would have {counted_credits(total_microcredits)}; an account may have "
                f"{format_credits(MICROCREDITS_MAX)}",
                hint="Fund it with less.",
            )

    def stake(self, worker: str, amount_microcredits: int, *, at: float) -> None:
        """Set up a worker's stake from the treasury. Raises `TreasuryExhausted`."""
        if amount_microcredits:
            self._require(TREASURY, amount_microcredits)
            self._apply(
                _entry(f"{worker}:stake", TREASURY, stake_of(worker), amount_microcredits, Kind.STAKE, at)
            )

    def reserve(self, job: str, account: str, amount_microcredits: int) -> None:
        """Set an amount aside for a job. Raises `InsufficientFunds`, and then nothing has changed."""
        invariant(amount_microcredits > 0, f"job {job} reserves {amount_microcredits}")
        invariant(job not in self._reservations, f"job {job} has a reservation")
        self._require(credits_of(account), amount_microcredits)
        escrow = self._accounts[credits_of(account)]
        escrow.available_microcredits -= amount_microcredits
        escrow.reserved_microcredits += amount_microcredits
        self._reservations[job] = Reservation(account, amount_microcredits)
        self._save(escrow)

    def pay(
        self, job: str, lease: str, worker: str, amount_microcredits: int, *, at: float, kind: str = Kind.PAY
    ) -> None:
        """Post a part of a job's reservation to a worker's hold, once per lease.

        It is for its result, for the stages that it had done (`PAY_STAGES`), or for work on a job that gave
        no result (`PAY_BEGUN`).
        """
        transfer = f"{lease}:{Kind.PAY}"
        known = self._applied.get(transfer)
        if known is not None:
            _, credit, paid_microcredits = known
            invariant(
                (credit, paid_microcredits) == (held_of(worker), amount_microcredits),
                f"lease {lease} was paid {paid_microcredits} to {credit}",
            )
            return
        account, left_microcredits = self._reservations.get(job, Reservation("", 0))
        invariant(
            amount_microcredits <= left_microcredits,
            f"lease {lease} costs {amount_microcredits}; job {job} has {left_microcredits} reserved",
        )
        self._apply(
            _entry(transfer, credits_of(account), held_of(worker), amount_microcredits, kind, at, job, lease),
            from_reserved=True,
        )
        self._reservations[job] = Reservation(account, left_microcredits - amount_microcredits)

    def void(self, job: str) -> int:
        """Free what is left of a job's reservation; a job without one has nothing to free."""
        account, amount_microcredits = self._reservations.pop(job, Reservation("", 0))
        if amount_microcredits:
            escrow = self._accounts[credits_of(account)]
            invariant(
                escrow.reserved_microcredits >= amount_microcredits,
                f"{escrow.id} has {escrow.reserved_microcredits} reserved",
            )
            escrow.reserved_microcredits -= amount_microcredits
            escrow.available_microcredits += amount_microcredits
            self._save(escrow)
        return amount_microcredits

    def mature(self, lease: str, worker: str, amount_microcredits: int, *, at: float) -> None:
        """Move a payment from the hold to the worker's earnings."""
        self._apply(
            _entry(
                f"{lease}:mature",
                held_of(worker),
                earned_of(worker),
                amount_microcredits,
                Kind.MATURE,
                at,
                lease=lease,
            )
        )

    def claw_back(
        self, job: str, lease: str, worker: str, account: str, amount_microcredits: int, *, at: float
    ) -> None:
        """Return a payment that is still held to the submitter who made it."""
        entry = _entry(
            f"{lease}:claw_back",
            held_of(worker),
            credits_of(account),
            amount_microcredits,
            Kind.CLAW_BACK,
            at,
            job,
            lease,
        )
        self._apply(entry)

    def slash(self, worker: str, *, at: float, lease: str = "") -> int:
        """Move a worker's whole stake to the treasury, and say how much that was."""
        amount_microcredits = self.account(stake_of(worker)).available_microcredits
        if amount_microcredits:
            self._apply(
                _entry(
                    f"{worker}:slash",
                    stake_of(worker),
                    TREASURY,
                    amount_microcredits,
                    Kind.SLASH,
                    at,
                    lease=lease,
                )
            )
        return amount_microcredits

    def account(self, name: str) -> Account:
        """The account as it is now; one that never moved is empty."""
        return self._accounts.get(name) or Account(id=name)

    def accounts(self) -> Iterable[Account]:
        """Every account that ever moved."""
        return self._accounts.values()

    def reservation(self, job: str) -> int:
        """What is set aside for a job."""
        return self._reservations.get(job, Reservation("", 0)).amount_microcredits

    def total_microcredits(self) -> int:
        """The sum of all accounts, which is the supply."""
        return sum(
            account.available_microcredits + account.reserved_microcredits
            for account in self._accounts.values()
        )

    def restore_reservations(
        self, reservations: dict[str, Reservation], *, may_be_more: bool = False
    ) -> None:
        """Take over the reservations of open jobs, which must be what the accounts have reserved.

        `may_be_more` says that there are open jobs which cannot be read: accounts may have reserved more.
        """
        self._reservations = dict(reservations)
        reserved_microcredits: dict[str, int] = {}
        for account, amount_microcredits in reservations.values():
            reserved_microcredits[credits_of(account)] = (
                reserved_microcredits.get(credits_of(account), 0) + amount_microcredits
            )
        for entry in self._accounts.values():
            expected_microcredits = reserved_microcredits.get(entry.id, 0)
            invariant(
                entry.reserved_microcredits == expected_microcredits
                or (may_be_more and entry.reserved_microcredits > expected_microcredits),
                f"{entry.id} reserves {entry.reserved_microcredits}, jobs {expected_microcredits}",
            )

    def forget(self, lease: str) -> None:
        """Drop the ids of a lease that no event can reach any more."""
        for kind in (Kind.PAY, Kind.MATURE, Kind.CLAW_BACK):
            self._applied.pop(f"{lease}:{kind}", None)

    def _require(self, account: str, amount_microcredits: int) -> None:
        available_microcredits = self.account(account).available_microcredits
        if amount_microcredits > available_microcredits:
            kind = TreasuryExhausted if account == TREASURY else InsufficientFunds
            raise kind(
                f"{counted_credits(amount_microcredits)} needed, "
                f"{format_credits(available_microcredits)} available",
                needed_microcredits=amount_microcredits,
                available_microcredits=available_microcredits,
            )

    def _apply(self, transfer: Transfer, *, from_reserved: bool = False) -> None:
        """Move the credits unless this id did so before."""
        known = self._applied.get(transfer.id)
        if known is not None:
            invariant(known == _what(transfer), f"transfer {transfer.id} happened with other terms: {known}")
            return
        invariant(
            transfer.amount_microcredits > 0, f"transfer {transfer.id} moves {transfer.amount_microcredits}"
        )
        debit, credit = self._open(transfer.debit), self._open(transfer.credit)
        source_microcredits = debit.reserved_microcredits if from_reserved else debit.available_microcredits
        invariant(
            source_microcredits >= transfer.amount_microcredits,
            f"{debit.id} has {source_microcredits}; {transfer.id} needs {transfer.amount_microcredits}",
        )
        if from_reserved:
            debit.reserved_microcredits -= transfer.amount_microcredits
        else:
            debit.available_microcredits -= transfer.amount_microcredits
        credit.available_microcredits += transfer.amount_microcredits
        self._applied[transfer.id] = _what(transfer)
        for changed in (debit, credit, transfer):
            self._save(changed)

    def _open(self, name: str) -> Account:
        return self._accounts.setdefault(name, Account(id=name))


def _entry(
    transfer: str,
    debit: str,
    credit: str,
    amount_microcredits: int,
    kind: str,
    at: float,
    job: str = "",
    lease: str = "",
) -> Transfer:
    return Transfer(
        id=transfer,
        debit=debit,
        credit=credit,
        amount_microcredits=amount_microcredits,
        kind=kind,
        at=at,
        job=job,
        lease=lease,
    )


def _what(transfer: Transfer) -> tuple[str, str, int]:
    return transfer.debit, transfer.credit, transfer.amount_microcredits
