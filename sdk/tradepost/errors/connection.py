"""The way between client, worker and broker."""

from __future__ import annotations

from tradepost.errors.base import Fault, TradepostError


class BrokerUnavailable(TradepostError):
    """The broker cannot be reached."""

    fault = Fault.NETWORK
    status = 503
    default_hint = "Is it running? Submitting again with the same idempotency key is always safe."


class ProtocolError(TradepostError):
    """The other side sent something that the protocol does not allow."""

    fault = Fault.NETWORK
    status = 400
    default_hint = "Run the same version of tradepost on both sides."


class InsecureTransport(TradepostError):
    """Plain HTTP is accepted on loopback only."""

    fault = Fault.OPERATOR
    status = 400
    default_hint = "Use https:// beyond this machine, with a certificate that this side trusts."
