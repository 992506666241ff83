"""Errors of a device's disk and system that stop a worker or a command."""

from __future__ import annotations

from tradepost.errors.base import Fault, TradepostError


class StateFolderUnusable(TradepostError):
    """The folder that keeps the state cannot be used."""

    fault = Fault.OPERATOR
    status = 500
    default_hint = "Set the state folder with --state-dir FOLDER."


class StateFileDamaged(TradepostError):
    """A file in the state folder is unreadable."""

    fault = Fault.OPERATOR
    status = 500
    default_hint = "Remove the file that the detail names, and run the command that writes it again."


class FileNotWritten(TradepostError):
    """A file could not be written."""

    fault = Fault.OPERATOR
    status = 500
    default_hint = "Free disk space, or make the file writable for this user."


class DatabaseTooNew(TradepostError):
    """The database was written by a newer version of Tradepost."""

    fault = Fault.OPERATOR
    status = 500
    default_hint = "Upgrade: pip install -U 'tradepost[all]'"


class DatabaseDamaged(TradepostError):
    """The database is damaged."""

    fault = Fault.OPERATOR
    status = 500
    default_hint = (
        "Check the disk, then move the file away and start again. "
        "Undelivered results and the local record of earnings are lost; payments stay on the broker's ledger."
    )


class DatabaseForeign(TradepostError):
    """The file is a database of another program."""

    fault = Fault.OPERATOR
    status = 500
    default_hint = "Move the file away, or set another state folder with --state-dir FOLDER."


class DatabaseUnusable(TradepostError):
    """The database cannot be opened or written."""

    fault = Fault.OPERATOR
    status = 500
    default_hint = "Free disk space, and check that this user may write the file that the detail names."


class NoServiceManager(TradepostError):
    """This system has no service manager that Tradepost can use."""

    fault = Fault.OPERATOR
    status = 501
    default_hint = "Start `tradepost worker run` in another way."


class InvalidDuration(TradepostError):
    """A duration is not valid."""

    fault = Fault.OPERATOR
    status = 400
    default_hint = "Use a form such as 2h, 1h30m or 45s."


class WrongMoment(TradepostError):
    """The worker's state does not allow this now."""

    fault = Fault.OPERATOR
    status = 409
    default_hint = "Show its state with: tradepost worker status"
