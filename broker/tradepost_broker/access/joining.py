"""Joining: a device uses a single-use token to become a worker.

The token is used up in the transaction that makes the worker, so it admits one device whatever happens; the
same device may ask again and gets the same answer, in case the first one was lost on the way.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from tradepost import identity
from tradepost.errors import InvalidJoinToken, InvalidKey, InvalidSignature, InvariantBroken
from tradepost.protocol import JoinReply, JoinRequest
from tradepost_broker.access.credentials import hash_of, new_secret
from tradepost_broker.engine.engine import Decision, Engine, Moment
from tradepost_broker.engine.work import Keep
from tradepost_broker.market.model.events import WorkerJoined
from tradepost_broker.storage.shell_records import JoinToken
from tradepost_broker.storage.store import Store

DOMAIN = "join"


class WorkerJoin:
    """Work that admits a worker with a token. Raises `InvalidJoinToken` in its turn."""

    def __init__(self, *, token: str, worker: str, request: JoinRequest) -> None:
        self._token_id = hash_of(token)
        self._worker = worker
        self._request = request

    def decide(self, moment: Moment) -> Decision:
        """The new worker and the token, used up; nothing if this device has used this token already."""
        token = moment.records.get(JoinToken, self._token_id)
        if token is None or (not token.used_by and token.expires_at <= moment.at):
            raise InvalidJoinToken("it is unknown or expired")
        if token.used_by not in ("", self._worker):
            raise InvalidJoinToken("another device has used it")
        if token.used_by:
            return Decision()
        joined = WorkerJoined(
            at=moment.at,
            worker=self._worker,
            owner=token.owner,
            device=self._request.device,
            public_key=self._request.public_key,
            auditor=token.auditor,
            stake_microcredits=token.stake_microcredits,
            token=token.id,
        )
        return Decision(event=joined, records=(msgspec.structs.replace(token, used_by=self._worker),))


class JoinService:
    """Issues tokens and admits workers that present them. A token is `<secret>.<broker's key id>`.

    `revocations_key` is the operator's public key (PEM) that workers take revocation lists from, if any.
    """

    def __init__(
        self,
        *,
        broker: str,
        store: Store,
        engine: Engine,
        clock: Callable[[], float],
        revocations_key: str = "",
    ) -> None:
        self._broker = broker
        self._store = store
        self._revocations_key = revocations_key
        self._engine = engine
        self._clock = clock

    async def issue(
        self, *, owner: str, stake_microcredits: int, auditor: bool, ttl_s: float
    ) -> tuple[str, float]:
        """A new token and when it expires."""
        token = f"{new_secret('tpj')}.{self._broker}"
        expires_at = self._clock() + ttl_s
        await self._engine.ask(
            Keep(
                JoinToken(
                    id=hash_of(token),
                    owner=owner,
                    stake_microcredits=stake_microcredits,
                    auditor=auditor,
                    expires_at=expires_at,
                )
            )
        )
        return token, expires_at

    def known_token(self, token: str) -> str:
        """A name for a token that was issued, whether it is used or not; "" for any other text."""
        id_ = hash_of(token)
        return "" if self._store.get(JoinToken, id_) is None else f"token {id_}"

    async def join(self, request: JoinRequest) -> JoinReply:
        """Admit the device that made `request`. Raises `InvalidJoinToken` or `InvalidSignature`."""
        try:
            identity.verify(request.public_key, DOMAIN, request.token.encode(), request.signature)
        except InvalidKey as error:
            raise InvalidSignature(f"the device's key: {error}") from None
        worker = identity.key_id(request.public_key)
        await self._engine.ask(WorkerJoin(token=request.token, worker=worker, request=request))
        token = self._store.get(JoinToken, hash_of(request.token))
        if token is None:
            raise InvariantBroken("a worker joined with a token that was not stored")
        return JoinReply(
            worker=worker,
            owner=token.owner,
            broker=self._broker,
            stake_microcredits=token.stake_microcredits,
            revocations_key=self._revocations_key,
        )
