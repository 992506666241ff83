"""The operator's revocation list: checked, stored, and sent to the market and to every worker.

The list is signed with a key of the operator's own, of which the broker knows the public half only: an
attacker who takes over the broker cannot revoke anything, and cannot take a revocation back on devices that
have seen it. It is on the disk before the market decides by it, so a restart at any moment enforces it again.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Final

from tradepost.errors import InvalidRevocations, InvalidSettings
from tradepost.protocol import Revocations
from tradepost_broker.engine.engine import Engine
from tradepost_broker.engine.work import EventWork
from tradepost_broker.market.model.events import RevocationsIssued
from tradepost_signing.keys import PublicKey
from tradepost_signing.policy.revocation import RevocationDocument
from tradepost_signing.policy.revocation_store import RevocationStore, SignedRevocations

#: The file in the data folder that holds the newest list.
FILE_NAME: Final = "revocations.json"

log = logging.getLogger(__name__)


class IssuedRevocations:
    """The newest list that the operator signed, on the disk.

    `operator` is the key that lists are signed with; `None` if nobody may revoke here. `has_enforced` is
    whether the market has enforced one before. Raises `InvalidRevocations` if the list at `path` is damaged
    or lost, and `InvalidSettings` if there is one and no key: the market would forget what it forbids.
    """

    def __init__(self, *, path: Path, operator: PublicKey | None, has_enforced: bool = False) -> None:
        if has_enforced and not os.path.lexists(path):
            raise InvalidRevocations(
                f"{path} does not exist, but this market has enforced a revocation list",
                hint="Restore it from a backup, or copy the file revocations-KEY.json of a worker's state "
                "folder there under this name: it holds the same signed list.",
            )
        if operator is None and os.path.lexists(path):
            raise InvalidSettings(
                f"{path} is a revocation list, but revocations_key is not set",
                hint="Set revocations_key to the operator's public key, as before.",
            )
        self._operator = operator
        self._store = None if operator is None else RevocationStore(path, operator)

    @property
    def key_pem(self) -> str:
        """The operator's public key (PEM), for workers that join; empty if nobody may revoke."""
        return "" if self._operator is None else self._operator.pem.decode()

    def frame(self) -> Revocations | None:
        """The newest list, as workers get it; `None` before the first."""
        signed = None if self._store is None else self._store.signed
        return None if signed is None else Revocations(signed.document, signed.bundle)

    def current(self) -> RevocationDocument | None:
        """What the newest list says; `None` before the first."""
        current = None if self._store is None else self._store.current
        return None if current is None else current.document

    def keep(self, signed: SignedRevocations) -> int:
        """Keep a list in place of the one before it; its version. Keeping the newest again changes nothing.

        Raises what `RevocationStore.accept` raises, or `InvalidRevocations` if nobody may revoke here.
        """
        if self._store is None:
            raise InvalidRevocations(
                "this broker has no revocation key",
                hint="Set revocations_key to the operator's public key, and start the broker again.",
            )
        self._store.accept(signed)
        return self._store.version


class RevocationService:
    """Enforces the operator's lists in the market, which sends them to the workers."""

    def __init__(self, *, revocations: IssuedRevocations, engine: Engine) -> None:
        self._list = revocations
        self._engine = engine

    async def accept(self, signed: SignedRevocations) -> int:
        """Enforce a list from now on; its version. Raises as `IssuedRevocations.keep`."""
        version = self._list.keep(signed)
        # Also for a list that was here before: the broker may have stopped before the market knew of it.
        await self.enforce()
        log.info(
            "Enforcing version %d of the revocation list.",
            version,
            extra={"action": "revocations_enforced", "version": version},
        )
        return version

    async def enforce(self) -> None:
        """Bring the newest list to the market."""
        document = self._list.current()
        if document is not None:
            await self._engine.ask(_issued(document))


def _issued(document: RevocationDocument) -> EventWork:
    return EventWork(lambda moment: RevocationsIssued(at=moment.at, document=document, seed=moment.seed))
