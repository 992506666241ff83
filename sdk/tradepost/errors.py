"""Every error that Tradepost raises on purpose, from one root.

An error's docstring is its message. Its class says whose fault it is, which HTTP status and which exit code
it has; its attributes carry the facts; `diagnostics()` is the text for people. Errors cross the wire as a
`Problem` (RFC 9457, `application/problem+json`) and are raised again on the other side by their `code`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, ClassVar

import msgspec


class Fault(StrEnum):
    """Whose mistake an error is, which is whom the hint addresses."""

    SUBMITTER = "submitter"
    PUBLISHER = "publisher"
    WORKER = "worker"
    BROKER = "broker"
    OPERATOR = "operator"
    NETWORK = "network"
    MARKET = "market"  # nobody's mistake: supply and demand did not meet


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

#: What msgspec raises on bytes of a stranger: its own errors, and two that are not among them, for text that
#: is not UTF-8 and for nesting without end.
UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error on the wire: RFC 9457 members `title`, `detail`, `status`, and Tradepost's own beside them.

    `code` names the error class; `facts` are its JSON-ready attributes.
    """

    code: str
    title: str
    detail: str = ""
    status: int = 500
    fault: str = ""
    stage: str | None = None
    hint: str = ""
    facts: dict[str, Any] = {}


class TradepostError(Exception):
    """Something went wrong in Tradepost."""

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

    def diagnostics(self) -> str:
        """What happened, where, whose fault it is and what to do next, a line each."""
        lines = [self.title()]
        if self.detail:
            lines.append(f"  what:  {self.detail}")
        if self.stage:
            lines.append(f"  stage: {self.stage}")
        lines.append(f"  fault: {self.fault.value}")
        if self.hint:
            lines.append(f"  hint:  {self.hint}")
        return "\n".join(lines)

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
        return cls(detail, stage=problem.stage, hint=problem.hint, **facts)


class UnknownProblem(TradepostError):
    """The other side reported an error that this version does not know."""

    default_hint = "Upgrade tradepost on this side."


class InvariantBroken(TradepostError):
    """A rule that must always hold did not. Nothing was written."""

    default_hint = "This is a defect in Tradepost: stop the broker and report it with its journal."


def invariant(holds: bool, what: str) -> None:
    """Crash with `InvariantBroken` unless `holds`. `assert` would vanish under `python -O`."""
    if not holds:
        raise InvariantBroken(what)


# Bad input


class InvalidRequest(TradepostError):
    """The request is not well formed."""

    fault = Fault.SUBMITTER
    status = 400


class InvalidTensorDocument(TradepostError):
    """These bytes are not a tensor document (safetensors) within the limits."""

    fault = Fault.SUBMITTER
    status = 400


class InvalidInput(TradepostError):
    """The job's input does not fit what the pipeline declares."""

    fault = Fault.SUBMITTER
    status = 400
    default_hint = "`tradepost jobs pipeline CID` shows the inputs that the pipeline declares."


class InlineInputTooLarge(TradepostError):
    """The inline input is larger than the broker takes."""

    fault = Fault.SUBMITTER
    status = 413
    default_hint = "Upload it first and submit by CID; the client does so by itself unless inline=True."


class IdempotencyConflict(TradepostError):
    """This idempotency key was already used for a different job."""

    fault = Fault.SUBMITTER
    status = 409
    default_hint = "Use a fresh key for each different job; the client makes one when you give none."


class InsufficientFunds(TradepostError):
    """The account's available credits do not cover the price cap."""

    fault = Fault.SUBMITTER
    status = 402
    default_hint = "Fund the account, lower max_price, or wait for running jobs to settle."


class Unauthorized(TradepostError):
    """The credentials are missing or were refused."""

    fault = Fault.SUBMITTER
    status = 401
    default_hint = "Set TRADEPOST_API_KEY, or ask the operator for a key (`tradepost broker account create`)."


class UnknownJob(TradepostError):
    """There is no such job for this account."""

    fault = Fault.SUBMITTER
    status = 404


class UnknownWorker(TradepostError):
    """No worker with this id has joined."""

    fault = Fault.SUBMITTER
    status = 404


class JobCancelled(TradepostError):
    """The job was cancelled by its submitter."""

    fault = Fault.SUBMITTER
    status = 409


class QuotaExceeded(TradepostError):
    """A limit on what one account may store or keep open was reached."""

    fault = Fault.SUBMITTER
    status = 429
    default_hint = "Wait until some of it is finished, then try again."


# Content


class UnknownCid(TradepostError):
    """No source has the block with this CID."""

    fault = Fault.SUBMITTER
    status = 404
    default_hint = "Check the CID, or upload the artifact first (`tradepost publish`, or submit it inline)."


class InvalidCid(TradepostError):
    """This is not a CID that Tradepost accepts (CIDv1, sha2-256)."""

    fault = Fault.SUBMITTER
    status = 400


class ContentMismatch(TradepostError):
    """The bytes do not have the hash that their CID promises."""

    fault = Fault.NETWORK
    status = 502
    default_hint = "The source that sent these bytes was put aside."


class ContentTooLarge(TradepostError):
    """The content is larger than its cap."""

    fault = Fault.SUBMITTER
    status = 413


class ContentStoreFull(TradepostError):
    """The content store has no room left within its byte budget."""

    fault = Fault.OPERATOR
    status = 507


class InvalidDag(ContentMismatch):
    """These blocks are not what they claim to be: no such file or directory exists within the limits."""

    fault = Fault.PUBLISHER
    status = 422
    default_hint = "Every block has its hash, so whoever made them is at fault, not who sent them."


class InvalidCar(TradepostError):
    """This is not a CAR (version 1) within the limits."""

    fault = Fault.SUBMITTER
    status = 400
    default_hint = "`ipfs dag export` and `tradepost content get --car` write what is read here."


class UnknownPath(TradepostError):
    """There is nothing at this path below the CID."""

    fault = Fault.SUBMITTER
    status = 404


class UnsafeName(TradepostError):
    """The directory has an entry that must not be written to a disk."""

    fault = Fault.PUBLISHER
    status = 422


class UnreadableContent(TradepostError):
    """This file or directory cannot be read."""

    fault = Fault.SUBMITTER
    status = 400


class NotAcceptable(TradepostError):
    """This gateway serves blocks and CARs, which can be checked, and no other format."""

    fault = Fault.SUBMITTER
    status = 406
    default_hint = "Ask with ?format=raw or ?format=car."


class RangeNotSatisfiable(TradepostError):
    """The range lies beyond the content."""

    fault = Fault.SUBMITTER
    status = 416


class SourceFailed(TradepostError):
    """A source of blocks did not deliver."""

    fault = Fault.NETWORK
    status = 502


class ContentUnavailable(TradepostError):
    """No source delivered this block."""

    fault = Fault.NETWORK
    status = 503
    default_hint = "What arrived is kept: fetch again and only what is missing is asked for."


class KuboFailed(SourceFailed):
    """The Kubo daemon cannot be reached, or refused the call."""

    fault = Fault.OPERATOR
    default_hint = "Is it running, with its API at this address? `ipfs id` tells."


# Pipelines and trust


class InvalidPipeline(TradepostError):
    """The pipeline is not valid."""

    fault = Fault.PUBLISHER
    status = 422


class UnknownPipeline(TradepostError):
    """No pipeline with this CID was published here."""

    fault = Fault.SUBMITTER
    status = 404
    default_hint = "`tradepost publish` prints the CID to use."


class InvalidArtifact(TradepostError):
    """This file or directory cannot be signed or verified."""

    fault = Fault.PUBLISHER
    status = 422


class InvalidSignature(TradepostError):
    """The signature does not match the artifact."""

    fault = Fault.PUBLISHER
    status = 422


class UnsignedArtifact(TradepostError):
    """The artifact carries no signature."""

    fault = Fault.PUBLISHER
    status = 422
    default_hint = "Sign it: `tradepost publish pipeline.toml --key KEY`."


class InvalidBundle(InvalidSignature):
    """This is not a signature bundle that Tradepost reads (Sigstore bundle v0.3)."""


class ExpiredSignature(InvalidSignature):
    """The signer's certificate was not valid when the signature was made."""


class UntrustedSigner(TradepostError):
    """The trust policy does not name whoever made this signature."""

    fault = Fault.PUBLISHER
    status = 403


class UntrustedPipeline(UntrustedSigner):
    """The trust policy does not allow this pipeline."""

    fault = Fault.PUBLISHER
    status = 403
    default_hint = "A worker's owner decides whose code runs: ask owners to add the publisher's key."


class Revoked(UntrustedSigner):
    """The market's operator has revoked this."""

    default_hint = "Publish again, without what was revoked; the operator says why."


class InvalidRevocations(TradepostError):
    """This is not a revocation list that the operator has signed."""

    fault = Fault.OPERATOR
    status = 422


class RevocationRollback(InvalidRevocations):
    """The revocation list is not newer than the one that is enforced."""

    status = 409
    default_hint = "Give the list a higher version: they only rise, so that nobody can bring back an old one."


class InvalidTrustPolicy(TradepostError):
    """The trust policy file is not valid, so nothing is trusted."""

    fault = Fault.WORKER
    status = 422


class InvalidKey(TradepostError):
    """The key file cannot be used."""

    fault = Fault.PUBLISHER
    status = 422


class SigstoreUnavailable(TradepostError):
    """Keyless signing needs the network, and Sigstore did not answer."""

    fault = Fault.NETWORK
    status = 503
    default_hint = "Try again online, or sign with a key, which needs no network: `tradepost keygen`."


class IdentityRefused(TradepostError):
    """There is no identity to sign with, or Sigstore did not accept it."""

    fault = Fault.PUBLISHER
    status = 401
    default_hint = "Set SIGSTORE_IDENTITY_TOKEN, use a terminal to sign in, or sign with a key."


# Market


class PriceCapTooLow(TradepostError):
    """The price cap is below what any standing offer asks for this job."""

    fault = Fault.MARKET
    status = 409
    default_hint = "Raise max_price, or lower the confidence, which needs fewer replicas."


class NoEligibleWorker(TradepostError):
    """No worker with the capability that this job needs has a standing offer."""

    fault = Fault.MARKET
    status = 409


class DeadlineExceeded(TradepostError):
    """The job's deadline passed before a result was accepted."""

    fault = Fault.MARKET
    status = 504


class NotVerified(TradepostError):
    """The results that came back did not reach the job's confidence."""

    fault = Fault.MARKET
    status = 409
    default_hint = "Lower the confidence, raise max_price, or wait for more workers to prove themselves."


# Workers and their devices


class InvalidJoinToken(TradepostError):
    """The join token is unknown, used up or expired."""

    fault = Fault.WORKER
    status = 401
    default_hint = "Ask the operator for a new one: `tradepost broker token`."


class InvalidReceipt(TradepostError):
    """The receipt is not what this lease allows."""

    fault = Fault.WORKER
    status = 422


class LeaseGone(TradepostError):
    """The lease is no longer open, so its result is not wanted."""

    fault = Fault.WORKER
    status = 410
    default_hint = "Nothing to do: the job was leased again after the deadline. This harms no reputation."


class WorkerLost(TradepostError):
    """Every worker that took the job went away or gave it back."""

    fault = Fault.WORKER
    status = 502
    default_hint = "Submit again later; nothing was charged."


class RunnerFailed(TradepostError):
    """The process that runs pipelines ended unexpectedly."""

    fault = Fault.WORKER
    status = 502


class LeaseTimeout(TradepostError):
    """The pipeline did not finish within its wall-clock limit."""

    fault = Fault.PUBLISHER
    status = 504
    default_hint = "Raise limits.wall_ms in pipeline.toml, or make the stage faster."


class LoadingTooCostly(TradepostError):
    """This pipeline takes more to load than this device, or its compiler, can give."""

    fault = Fault.MARKET
    status = 409
    default_hint = "A device with more memory may load it; a smaller artifact loads on more devices."


class SandboxUnavailable(TradepostError):
    """This device cannot give the isolation that was asked for."""

    fault = Fault.WORKER
    status = 501


# Stages: the same on every device, so they are verified like any other outcome


class StageFailure(TradepostError):
    """A stage failed."""

    fault = Fault.PUBLISHER
    status = 422


class KernelTrap(StageFailure):
    """A kernel trapped."""

    default_hint = "Reproduce it offline with the same input: `tradepost kernel run`."


class KernelOutOfFuel(StageFailure):
    """A kernel used up its fuel."""

    default_hint = "Raise the stage's limits.fuel in pipeline.toml, or send a smaller input."


class KernelError(StageFailure):
    """A kernel reported an error about its input."""

    fault = Fault.SUBMITTER


class KernelMemoryExceeded(StageFailure):
    """A kernel asked for more memory than its limit."""

    default_hint = "Raise the stage's limits.memory_bytes in pipeline.toml."


class InvalidKernel(StageFailure):
    """This module is not a kernel that the sandbox accepts."""


class ModelFailure(StageFailure):
    """A model could not be run on this input."""

    default_hint = "The detail is onnxruntime's: compare the input's shapes and values with what it names."


class InvalidModel(StageFailure):
    """This model is not one that the profile accepts."""


# The connection


class BrokerUnavailable(TradepostError):
    """The broker cannot be reached."""

    fault = Fault.NETWORK
    status = 503
    default_hint = "Is it running? Submitting again with the same idempotency key is always safe."


class ProtocolError(TradepostError):
    """The other side sent something that the protocol does not allow."""

    fault = Fault.NETWORK
    status = 400


class InsecureTransport(TradepostError):
    """Plain HTTP is accepted on loopback only."""

    fault = Fault.OPERATOR
    status = 400
    default_hint = "Use https:// beyond this machine, with a certificate that this side trusts."


class ResultTimeout(TradepostError):
    """The result did not arrive within the time given to result(). The job goes on."""

    fault = Fault.SUBMITTER
    status = 408
    default_hint = "Call result() again, or cancel()."


class MissingExtra(TradepostError):
    """This command needs an extra that is not installed."""

    fault = Fault.OPERATOR
    status = 501


class InvalidSettings(TradepostError):
    """A setting is not valid."""

    fault = Fault.OPERATOR
    status = 400
