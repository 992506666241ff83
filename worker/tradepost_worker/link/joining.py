"""Joins a device: it sends its public key and a signature over the join token.

A token is `<secret>.<broker's key id>`. The id comes from the operator together with the secret, so the
worker knows which broker to expect on every later connection, no matter who answers at its address.
"""

from __future__ import annotations

import re
from typing import Final

from tradepost.broker_url import parse_broker_url
from tradepost.errors import InvalidJoinToken, ProtocolError
from tradepost.protocol import JoinReply, JoinRequest
from tradepost_signing.keys import PublicKey
from tradepost_worker.link.broker_api import BrokerApi
from tradepost_worker.state import Membership, StateFolder

_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{16,128}\.(?P<broker>[a-z2-7]{52})")


async def join(state: StateFolder, *, broker_url: str, token: str, device: str) -> Membership:
    """Join a broker and remember it.

    Raises `InvalidJoinToken`, `InsecureTransport`, `StateFileDamaged`, `BrokerUnavailable`, or
    `ProtocolError` if another broker than the token's answers, or one that does not name the operator's key
    that it named before.
    """
    url = parse_broker_url(broker_url)
    token = token.strip()  # as it is copied from a mail
    parts = _TOKEN.fullmatch(token)
    if parts is None:
        raise InvalidJoinToken(
            "this is not a complete join token; copy all of it, including the part after the dot"
        )
    worker, before = state.identity(), state.membership()  # what is damaged must not cost the token
    request = JoinRequest(
        token=token,
        public_key=worker.public_key,
        signature=worker.sign("join", token.encode()),
        device=device,
    )
    async with BrokerApi(url) as broker:
        reply = await broker.join(request)
    if reply.broker != parts["broker"] or reply.worker != worker.id:
        raise ProtocolError(f"broker {reply.broker} answered, but the token is from broker {parts['broker']}")
    _check_revocations_key(before, reply)
    membership = Membership(
        broker_url=str(url),
        broker=reply.broker,
        worker=reply.worker,
        owner=reply.owner,
        device=device,
        stake_microcredits=reply.stake_microcredits,
        revocations_key=reply.revocations_key,
    )
    state.join(membership)
    return membership


def _check_revocations_key(before: Membership | None, reply: JoinReply) -> None:
    """Raise unless the operator's key is one, and the one that this broker named before if it named any.

    Else who takes over a broker could lift what was revoked, by having devices join again.
    """
    if reply.revocations_key:
        PublicKey.from_pem(reply.revocations_key.encode())
    pinned = before.revocations_key if before is not None and before.broker == reply.broker else ""
    if pinned and reply.revocations_key != pinned:
        raise ProtocolError(
            "the broker has another revocation key than when this device joined before",
            hint="If the operator confirms it, delete membership.json in the state folder and join again.",
        )
