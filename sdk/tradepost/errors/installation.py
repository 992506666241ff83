"""Errors about the installation and the settings of this machine."""

from __future__ import annotations

from tradepost.errors.base import Fault, TradepostError


class MissingExtra(TradepostError):
    """This command needs an extra that is not installed."""

    fault = Fault.OPERATOR
    status = 501
    default_hint = "Install everything: pip install 'tradepost[all]'"


class InvalidCommandLine(TradepostError):
    """The command line is not valid."""

    fault = Fault.OPERATOR
    status = 400
    default_hint = "Add --help to the command to see its arguments and options."


class WorkingFolderDeleted(TradepostError):
    """The working folder was deleted, so a relative path has no meaning."""

    fault = Fault.OPERATOR
    status = 400
    default_hint = "Change to a folder that exists."


class InvalidSettings(TradepostError):
    """A setting is not valid."""

    fault = Fault.OPERATOR
    status = 400
    default_hint = "Correct the setting that the detail names."


class DataFolderInUse(TradepostError):
    """Another process uses the data folder."""

    fault = Fault.OPERATOR
    status = 409
    default_hint = "Stop the other process, or use another --data-dir."


class DataFolderUnusable(TradepostError):
    """The data folder cannot be used."""

    fault = Fault.OPERATOR
    status = 500
    default_hint = "Use another folder with --data-dir, or make this one writable for this user."


class DiskFull(TradepostError):
    """The disk of the broker is almost full."""

    fault = Fault.OPERATOR
    status = 507
    default_hint = "Try again later: the operator has to free disk space."


class CannotListen(TradepostError):
    """The broker cannot listen on its address."""

    fault = Fault.OPERATOR
    status = 409
    default_hint = "Use another --port; 0 selects any free port."


class MissingDatabase(TradepostError):
    """There is no database in the data folder."""

    fault = Fault.OPERATOR
    status = 404
    default_hint = "Set the broker's data folder with --data-dir."


class InvalidOperatorToken(TradepostError):
    """The file of the operator's token is damaged."""

    fault = Fault.OPERATOR
    status = 500
    default_hint = "Delete the file; the broker creates a new token when it starts."
