"""Enforces the operator's revocation list from the moment it arrives, and offline afterwards.

A list counts for the operator's signature alone, by the key that this device was given when it joined; that
the broker sent it counts for nothing. It can only forbid, so a false refusal is the worst that it can do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from tradepost.errors import InvalidRevocations, TradepostError
from tradepost.protocol import Revocations
from tradepost_signing.policy.revocation_store import RevocationStore, SignedRevocations
from tradepost_worker.leases.held_leases import HeldLeases
from tradepost_worker.leases.pipelines import PipelineLibrary
from tradepost_worker.state import Membership, StateFolder

log = logging.getLogger(__name__)

_SENT_AGAIN: Final = (
    "Restore it from a backup, or move it away: the broker sends its newest list when the worker connects."
)


def open_revocations(state: StateFolder, membership: Membership) -> RevocationStore | None:
    """The newest list of the operator whose key came when the device joined; `None` if there is no such key.

    Raises `InvalidRevocations` for a list that is damaged: what was forbidden is not known, so nothing runs.
    """
    operator = membership.operator()
    if operator is None:
        return None
    return RevocationStore(state.revocations(operator.id), operator, hint=_SENT_AGAIN)


class RevocationGuard:
    """Accepts lists, and stops what a newer list revokes. `end_runners` ends the runners of one pipeline."""

    def __init__(
        self,
        *,
        store: RevocationStore | None,
        pipelines: PipelineLibrary,
        leases: HeldLeases,
        end_runners: Callable[[str], None],
    ) -> None:
        self._store = store
        self._pipelines = pipelines
        self._leases = leases
        self._end_runners = end_runners

    def take(self, frame: Revocations) -> None:
        """Enforce a list that the broker sent, if the operator signed it and it is newer than the last."""
        try:
            if self._store is None:
                raise InvalidRevocations("this device joined a market without a revocation key")
            is_new = self._store.accept(SignedRevocations(frame.document, frame.bundle))
        except TradepostError as error:
            log.warning(
                "Rejected a revocation list: %s",
                error,
                extra={"action": "revocations_refused", "code": error.code()},
            )
            return
        if is_new and self._store.current is not None:
            revoked = self._pipelines.enforce(self._store.current)
            self._leases.refuse(revoked)
            for pipeline in revoked:
                self._end_runners(pipeline)
            log.info(
                "Enforcing version %d of the revocation list; it stops %d pipelines on this device.",
                self._store.version,
                len(revoked),
                extra={"action": "revocations_enforced", "version": self._store.version},
            )
