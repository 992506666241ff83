"""Errors of the connections between client, worker and broker."""

from __future__ import annotations

from tradepost.errors.base import Fault, TradepostError


class BrokerUnavailable(TradepostError):
    """The broker cannot be reached."""

    fault = Fault.NETWORK
    status = 503
    default_hint = "Check that the broker is running and that its URL is right, then try again."


class BrokerDefect(TradepostError):
    """A defect in the broker prevented this. It was set aside, and nothing was charged."""

    default_hint = (
        "Do not send it again: it would be rejected again. Report it to the market's operator, whom "
        "`tradepost broker set-aside` shows it."
    )


class ProtocolError(TradepostError):
    """The peer sent a message that violates the protocol."""

    fault = Fault.NETWORK
    status = 400
    default_hint = "Run the same version of tradepost on both sides."


class InsecureTransport(TradepostError):
    """Plain HTTP is accepted on loopback only."""

    fault = Fault.OPERATOR
    status = 400
    default_hint = "Use https:// for another machine, with a certificate that this machine trusts."
