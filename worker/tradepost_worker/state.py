"""The worker's state folder: its key, membership, database, blocks, and the lock of its process.

worker.key       the identity, readable by its owner only
membership.json  the broker that it joined
worker.toml      settings                trust.toml  the trust policy
worker.sqlite    outbox and earnings     blocks/     artifacts
worker.lock      held while a worker runs from this folder
compiled/        kernels as they were compiled, and the key that authenticates them
connection.json  whether that worker is connected
revocations-KEY.json  what the operator with this key forbids
standing.json    what it may do now, and why     owner.json  what the owner told it
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from tradepost.atomic_files import replace_file
from tradepost.broker_url import parse_broker_url
from tradepost.errors import (
    UNDECODABLE,
    InvalidKey,
    StateFileDamaged,
    StateFolderUnusable,
    TradepostError,
    WrongMoment,
)
from tradepost.file_status import why_no_file
from tradepost.file_writing import writing_own
from tradepost.identity import Identity
from tradepost.schema_errors import describe_mismatch
from tradepost_signing.keys import PublicKey
from tradepost_worker.device.governor import Allowance, Readings
from tradepost_worker.device.limits import DeviceLimits

_JOIN_AGAIN: Final = "join again with a new token: tradepost worker join URL --token TOKEN"
_KEY_HINT: Final = (
    f"Restore it from a backup. Without one, move it away and {_JOIN_AGAIN}. "
    "The device is a new worker then: the old one's stake and reputation are not transferred."
)
_WRITTEN_AGAIN: Final = "Move it away: the worker writes this file again."
_MEMBERSHIP_HINT: Final = f"Restore it from a backup, or move it away and {_JOIN_AGAIN}"


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """The broker that a device joined, and as whom. `broker` and `worker` are key ids.

    `revocations_key` is the public key (PEM) whose revocation lists count here; empty if nobody may revoke.
    """

    broker_url: str
    broker: str
    worker: str
    owner: str
    device: str
    stake_microcredits: int
    revocations_key: str = ""

    def operator(self) -> PublicKey | None:
        """The key whose revocation lists count; `None` if nobody may revoke. Raises `InvalidKey`."""
        return PublicKey.from_pem(self.revocations_key.encode()) if self.revocations_key else None


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the running worker is connected, since when (Unix seconds), and if not, why."""

    is_connected: bool
    since: float
    problem: str = ""


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What the worker may do, at a time (Unix seconds), what it does, and the isolation of its runners."""

    at: float
    decision: Allowance
    readings: Readings
    limits: DeviceLimits
    running: int
    preemptions: int
    isolation: tuple[str, ...] = ()


class StateFolder:
    """The files of one worker. `clock` gives Unix seconds."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self._clock = clock
        self.database = path / "worker.sqlite"
        self.blocks = path / "blocks"
        self.compiled = path / "compiled"
        self._key = path / "worker.key"
        self._membership = path / "membership.json"
        self._connection = path / "connection.json"
        self._lock = path / "worker.lock"
        self._status = path / "standing.json"
        self.owner_command = path / "owner.json"

    def make(self) -> bool:
        """Make the folder if it is absent, for its owner alone; whether it was.

        Raises `StateFolderUnusable` if this user cannot make it, or cannot write into it.
        """
        was_absent = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise StateFolderUnusable(f"{self.path} cannot be created: {error.strerror}") from None
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise StateFolderUnusable(f"this user cannot write to {self.path}")
        return was_absent

    def require(self) -> None:
        """Raise `StateFolderUnusable` if there is no such folder: a command for a worker makes none."""
        if not self.path.is_dir():
            raise StateFolderUnusable(
                f"{self.path} does not exist",
                hint="Correct --state-dir. `tradepost worker join` creates the folder.",
            )

    def identity(self) -> Identity:
        """The worker's identity, made on first use. Raises `StateFolderUnusable` or `StateFileDamaged`."""
        self.make()
        try:
            return Identity.load_or_create(self._key)
        except InvalidKey as error:
            raise StateFileDamaged(error.detail, hint=_KEY_HINT) from None

    def joined_identity(self, membership: Membership) -> Identity:
        """The identity with which this device joined.

        Raises `StateFileDamaged` if its key is missing or damaged, or is the key of another device.
        """
        joined_as = f"this device joined as worker {membership.worker}"
        if not os.path.lexists(self._key):
            raise StateFileDamaged(f"{self._key} does not exist, but {joined_as}", hint=_KEY_HINT)
        identity = self.identity()
        if identity.id != membership.worker:
            problem = f"{self._key} is the key of worker {identity.id}, but {joined_as}"
            raise StateFileDamaged(problem, hint=_KEY_HINT)
        return identity

    def membership(self) -> Membership | None:
        """What the device joined, if it did. Raises `StateFileDamaged` for a file that cannot be read."""
        if problem := why_no_file(self._membership):
            raise StateFileDamaged(problem, hint=_MEMBERSHIP_HINT)
        try:
            membership = msgspec.json.decode(self._membership.read_bytes(), type=Membership)
            parse_broker_url(membership.broker_url)
            membership.operator()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateFileDamaged(f"{self._membership}: {error.strerror}") from None
        except UNDECODABLE as error:
            problem = f"{self._membership}: {describe_mismatch(error, whole='the file')}"
            raise StateFileDamaged(problem, hint=_MEMBERSHIP_HINT) from None
        except TradepostError as error:
            problem = f"{self._membership}: {error.title()} {error.detail}"
            raise StateFileDamaged(problem, hint=_MEMBERSHIP_HINT) from None
        return membership

    def require_files(self) -> None:
        """Raise `StateFileDamaged` if there is something else in place of a file that a worker writes."""
        for path in (self._lock, self._connection, self._status):
            if problem := why_no_file(path):
                raise StateFileDamaged(problem, hint=_WRITTEN_AGAIN)

    def join(self, membership: Membership) -> None:
        """Remember what the device joined. Raises `FileNotWritten`."""
        with writing_own(self._membership):
            replace_file(self._membership, msgspec.json.format(msgspec.json.encode(membership)))

    def revocations(self, operator: str) -> Path:
        """The file of the newest revocation list of the operator whose key has this id."""
        return self.path / f"revocations-{operator}.json"

    def set_connected(self, is_connected: bool, problem: str = "") -> None:
        """Tell `status` whether the running worker is connected, and if not, why. Raises `FileNotWritten`."""
        before = self._written_connection()
        is_same = before is not None and before.is_connected == is_connected
        since = before.since if before is not None and is_same else self._clock()
        connection = Connection(is_connected=is_connected, since=since, problem=problem)
        with writing_own(self._connection):
            replace_file(self._connection, msgspec.json.encode(connection), durable=False)

    def connection(self) -> Connection | None:
        """The running worker's connection; `None` if no worker runs from this folder.

        Raises `StateFileDamaged` or `StateFolderUnusable` if that cannot be found out.
        """
        with self._open_lock() as file:
            if file is None:
                return None
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return self._written_connection() or Connection(is_connected=False, since=self._clock())
        return None

    @contextmanager
    def _open_lock(self) -> Iterator[BinaryIO | None]:
        """The lock file, to look whether it is held; `None` if no worker ever ran here."""
        if problem := why_no_file(self._lock):
            raise StateFileDamaged(problem, hint=_WRITTEN_AGAIN)
        try:
            file = self._lock.open("rb")
        except FileNotFoundError:
            yield None
            return
        except OSError as error:
            raise StateFolderUnusable(f"{self._lock}: {error.strerror}") from None
        with file:
            yield file

    def _written_connection(self) -> Connection | None:
        try:
            return msgspec.json.decode(self._connection.read_bytes(), type=Connection)
        except (OSError, *UNDECODABLE):  # absent, or of another version
            return None

    def set_status(self, status: WorkerStatus) -> None:
        """Tell `status` what the running worker may do. Raises `FileNotWritten`."""
        with writing_own(self._status):
            replace_file(self._status, msgspec.json.encode(status), durable=False)

    def status(self) -> WorkerStatus | None:
        """What the worker that runs, or ran last, was allowed to do; `None` if it never said."""
        try:
            return msgspec.json.decode(self._status.read_bytes(), type=WorkerStatus)
        except (OSError, *UNDECODABLE):  # absent, or of another version
            return None

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Hold this folder for one running worker. Raises `WrongMoment` if another one runs from it,
        `StateFileDamaged` as `require_files` does, and `StateFolderUnusable` as `make` does."""
        self.make()
        self.require_files()
        try:
            lock = self._lock.open("wb")
        except OSError as error:
            raise StateFolderUnusable(f"{self._lock}: {error.strerror}") from None
        with lock as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise WrongMoment(
                    f"a worker is already running with the state folder {self.path}",
                    hint="Give a second worker its own --state-dir.",
                ) from None
            self._connection.unlink(missing_ok=True)
            yield
