"""API keys, join tokens and the operator's token. Only hashes of secrets are stored.

Secrets are 256 random bits, so one SHA-256 is enough: there is nothing to guess that stretching would slow.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from pathlib import Path
from typing import Final

from tradepost.atomic_files import create_file
from tradepost.errors import InvalidOperatorToken, Unauthorized
from tradepost.file_status import why_no_file
from tradepost_broker.storage.shell_records import ApiKey
from tradepost_broker.storage.store import Store

#: One that an operator chose may have any visible ASCII characters, since it is sent in a header.
_TOKEN: Final = re.compile(r"[!-~]{32,}")


def new_secret(prefix: str) -> str:
    """A fresh secret; the prefix lets people and secret scanners see what it is."""
    return f"{prefix}_{secrets.token_urlsafe(32)}"


def hash_of(secret: str) -> str:
    """What is kept of a secret: its SHA-256 (hex)."""
    return hashlib.sha256(secret.encode()).hexdigest()


class Credentials:
    """Checks credentials. API keys are read from the store once, then cached."""

    def __init__(self, *, store: Store, operator_token: str) -> None:
        self._accounts = {key.id: key.account for key in store.find_readable(ApiKey)}
        self._operator = hash_of(operator_token)

    def add(self, key: ApiKey) -> None:
        """Accept a new API key, once it is durable."""
        self._accounts[key.id] = key.account

    def has_account(self, account: str) -> bool:
        """Whether any key belongs to `account`."""
        return account in self._accounts.values()

    def account_of(self, key: str) -> str:
        """The account of an API key. Raises `Unauthorized`."""
        # Looking up a hash tells nothing by its timing: nobody can choose a secret by its hash.
        account = self._accounts.get(hash_of(key))
        if account is None:
            raise Unauthorized("this broker does not know this API key")
        return account

    def check_operator(self, token: str) -> None:
        """Raise `Unauthorized` unless `token` is the operator's."""
        if not self.is_operator(token):
            raise Unauthorized(
                "this is not the operator's token",
                hint="Use the token in the file operator.token in the broker's data folder.",
            )

    def is_operator(self, token: str) -> bool:
        """Whether `token` is the operator's."""
        return hmac.compare_digest(hash_of(token), self._operator)


def load_or_create_operator_token(path: Path) -> str:
    """The operator's token in the file at `path`, made there (mode 0600) if the file is absent.

    Raises `InvalidOperatorToken`.
    """
    if problem := why_no_file(path):
        raise InvalidOperatorToken(problem)
    token = new_secret("tpo")
    try:
        create_file(path, f"{token}\n".encode())
    except FileExistsError:
        token = path.read_bytes().decode(errors="replace").strip()
        if _TOKEN.fullmatch(token) is None:
            raise InvalidOperatorToken(f"{path} contains no operator token") from None
    return token
