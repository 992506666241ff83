"""The turn of one work: it is decided, the core handles its event, and the transaction gets the effects."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Sequence

from tradepost.errors import BrokerDefect, TradepostError
from tradepost_broker.engine.core_recovery import CoreRecovery, Failure
from tradepost_broker.engine.decisions import Core, Decision, Moment, Outcome, Postponed, Work
from tradepost_broker.market.model.events import Event, Instruction, ReplyRefused, Save
from tradepost_broker.market.state.seeded_random import SEED_BITS
from tradepost_broker.storage.store import Transaction

log = logging.getLogger(__name__)


class Turns:
    """Gives works their turns, one after the other, and each its time and a fresh seed."""

    def __init__(
        self,
        *,
        core: Core,
        recovery: CoreRecovery | None,
        clock: Callable[[], float],
        observe_decided: Callable[[Event, Sequence[Instruction]], None],
    ) -> None:
        self._core = core
        self._recovery = recovery
        self._clock = clock
        self._observe_decided = observe_decided
        self._at = 0.0

    def now(self) -> float:
        """The time in Unix seconds. It never runs backwards in the journal, whatever the clock does."""
        self._at = max(self._at, self._clock())
        return self._at

    def handle(self, work: Work, transaction: Transaction) -> Outcome | Postponed | Failure:
        """What came of the work. After a `Failure`, restore the core and discard the transaction."""
        moment = Moment(self.now(), secrets.randbits(SEED_BITS), transaction)
        try:
            decision = work.decide(moment)
        except TradepostError as error:
            return error
        except Exception:  # nothing has changed yet
            log.exception("A request could not be decided", extra={"action": "defect"})
            return BrokerDefect("the request could not be decided")
        if isinstance(decision, Postponed):
            return decision
        event = decision.event
        if event is not None and self._recovery is not None and (refusal := self._recovery.refusal(event)):
            return refusal
        try:
            return self._apply(decision, transaction)
        except Exception as error:
            return Failure(event, error) if self._recovery is None else self._recovery.failure(event, error)

    def _apply(self, decision: Decision, transaction: Transaction) -> Outcome:
        event = decision.event
        instructions: Sequence[Instruction] = () if event is None else self._core.handle(event)
        for instruction in instructions:
            if isinstance(instruction, ReplyRefused):
                return TradepostError.from_problem(instruction.problem)
        if event is not None:
            self._observe_decided(event, instructions)
            if self._core.changed:
                transaction.journal(event)
        for instruction in instructions:
            if isinstance(instruction, Save):
                transaction.save(instruction.record)
        for record in decision.records:
            transaction.save(record)
        if decision.records_after is not None:
            for record in decision.records_after(instructions):
                transaction.save(record)
        for deletion in decision.deletions:
            transaction.delete(deletion)
        return instructions
