"""The base class of all errors, and the parts of an error."""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from typing import Any, ClassVar

import msgspec

from tradepost.errors.problem import Problem
from tradepost.plurals import noun
from tradepost.untrusted_text import plain_lines


class Fault(StrEnum):
    """The party at fault, which the hint addresses."""

    SUBMITTER = "submitter"
    PUBLISHER = "publisher"
    WORKER = "worker"
    BROKER = "broker"
    OPERATOR = "operator"
    NETWORK = "network"
    MARKET = "market"  # no party is at fault: supply and demand did not match


#: Process exit codes by fault; stable, so that scripts may depend on them. 0 is success, 1 is a defect in
#: Tradepost itself and 2 is a misuse of the command line.
EXIT_CODES = {
    Fault.SUBMITTER: 10,
    Fault.PUBLISHER: 11,
    Fault.WORKER: 12,
    Fault.BROKER: 13,
    Fault.OPERATOR: 14,
    Fault.NETWORK: 15,
    Fault.MARKET: 16,
}

#: What msgspec raises on untrusted bytes: its own errors, and two others, for text that is not UTF-8 and for
#: unlimited nesting.
UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class TradepostError(Exception):
    """An operation of Tradepost failed."""

    fault: ClassVar[Fault] = Fault.BROKER
    status: ClassVar[int] = 500
    default_hint: ClassVar[str] = ""

    _by_code: ClassVar[dict[str, type[TradepostError]]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        TradepostError._by_code[cls.code()] = cls

    def __init__(
        self, detail: str = "", *, stage: str | None = None, hint: str | None = None, **facts: Any
    ) -> None:
        """`detail` is what happened this time; `facts` must be JSON-ready values."""
        self.detail = detail
        self.stage = stage
        self.hint = self.default_hint if hint is None else hint
        self.facts = facts
        #: Of an error that a job ended with: the job's id, what it cost (credits), and the signed receipts.
        self.job = ""
        self.price = Decimal(0)
        self.receipts: tuple[Any, ...] = ()
        super().__init__(detail or self.title())

    @classmethod
    def code(cls) -> str:
        """The stable name of this error on the wire: the class's name in kebab case."""
        return "".join(f"-{c.lower()}" if c.isupper() else c for c in cls.__name__).lstrip("-")

    @classmethod
    def title(cls) -> str:
        """The first line of the docstring."""
        return (cls.__doc__ or cls.__name__).strip().splitlines()[0]

    @property
    def exit_code(self) -> int:
        """The exit code of a command that ends with this error."""
        return EXIT_CODES[self.fault]

    def payment(self) -> str:
        """What was paid for the job that ended with this error, as the end of a sentence."""
        if not self.price:
            return "nothing was paid"
        return f"{self.price:f} {noun(self.price, 'credit was', 'credits were')} paid"

    def diagnostics(self) -> str:
        """What happened, where, who is at fault and what to do next, one line each."""
        lines = [self.title()]
        if self.detail:
            # It contains untrusted text: a line break in it must not look like a line of ours.
            lines.append(f"  what:  {self.detail}".replace("\n", "\n         "))
        if self.stage:
            lines.append(f"  stage: {self.stage}")
        if self.job:
            lines.append(f"  job:   {self.job}, for which {self.payment()}")
        lines.append(f"  fault: {self.fault.value}")
        if self.hint:
            lines.append(f"  hint:  {self.hint}")
        return plain_lines("\n".join(lines))

    def to_problem(self) -> Problem:
        """This error as it crosses the wire."""
        return Problem(
            code=self.code(),
            title=self.title(),
            detail=self.detail,
            status=self.status,
            fault=self.fault.value,
            stage=self.stage,
            hint=self.hint,
            facts=self.facts,
        )

    @staticmethod
    def from_problem(problem: Problem) -> TradepostError:
        """The error that `problem` describes; an unknown code (a newer peer) gives an `UnknownProblem`."""
        cls = TradepostError._by_code.get(problem.code, UnknownProblem)
        detail = problem.detail
        if cls is UnknownProblem:
            detail = f"{problem.code}: {problem.title} {detail}".strip()
        facts = {
            name: fact for name, fact in problem.facts.items() if name not in ("detail", "stage", "hint")
        }
        return cls(detail, stage=problem.stage, hint=problem.hint or None, **facts)


class UnknownProblem(TradepostError):
    """The peer reported an error that this version does not know."""

    default_hint = "Upgrade tradepost on this machine."


class InvariantBroken(TradepostError):
    """An invariant was violated. Nothing was written."""

    default_hint = "This is a defect in Tradepost: stop the broker, and report the defect with its journal."


class StateBroken(InvariantBroken):
    """A record cannot change from its state in this way. Nothing was written."""


def invariant(holds: bool, what: str, error: type[InvariantBroken] = InvariantBroken) -> None:
    """Crash with `error` unless `holds`. `assert` would vanish under `python -O`."""
    if not holds:
        raise error(what)
