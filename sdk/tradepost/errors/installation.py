"""Errors about the installation and the settings of this machine."""

from __future__ import annotations

from tradepost.errors.base import Fault, TradepostError


class MissingExtra(TradepostError):
    """This command needs an extra that is not installed."""

    fault = Fault.OPERATOR
    status = 501
    default_hint = "Install everything: pip install 'tradepost[all]'"


class InvalidSettings(TradepostError):
    """A setting is not valid."""

    fault = Fault.OPERATOR
    status = 400
    default_hint = "Correct the setting that the detail names."
