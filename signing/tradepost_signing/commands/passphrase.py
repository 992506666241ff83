"""Reads the passphrase of a key file from a file, the environment, or a prompt; never from an argument.

An argument would be seen by every process on the machine and kept in the shell's history.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

import typer

from tradepost.errors import InvalidKey

VARIABLE: Final = "TRADEPOST_KEY_PASSPHRASE"
_HINT: Final = f"Use a terminal, set {VARIABLE}, or use --passphrase-file."


def existing_passphrase(key: Path, file: Path | None) -> bytes:
    """The passphrase of the encrypted key at `key`. Raises `InvalidKey` if there is no way to get it."""
    given = _given(file)
    return given if given is not None else _prompt(f"Passphrase of {key}", confirm=False)


def new_passphrase(file: Path | None) -> bytes:
    """A passphrase for a new key, typed twice where it is prompted for. Raises `InvalidKey`."""
    given = _given(file)
    return given if given is not None else _prompt("Passphrase for the new key", confirm=True)


def _given(file: Path | None) -> bytes | None:
    if file is not None:
        try:
            # The end of its line is no part of it, in the Unix form or in that of Windows.
            passphrase = file.read_bytes().removesuffix(b"\n").removesuffix(b"\r")
        except OSError as error:
            raise InvalidKey(f"passphrase file {file}: {error.strerror}") from None
    elif VARIABLE in os.environ:
        passphrase = os.environb[VARIABLE.encode()]
    else:
        return None
    if not passphrase:
        raise InvalidKey("the passphrase is empty", hint=_HINT)
    return passphrase


def _prompt(text: str, *, confirm: bool) -> bytes:
    if not sys.stdin.isatty():
        raise InvalidKey("the key needs a passphrase, but there is no terminal for a prompt", hint=_HINT)
    passphrase: str = typer.prompt(text, hide_input=True, confirmation_prompt=confirm, err=True)
    return passphrase.encode()
