"""What may be kept for one account: the blocks that it uploaded, and the documents of its jobs, together.

Documents of finished jobs make room for new ones, the oldest first, before they would be deleted for their
age. So the quota refuses something only where open jobs and uploaded blocks fill it.
"""

from __future__ import annotations

import asyncio
from typing import Final

from tradepost.errors import QuotaExceeded
from tradepost_broker.content.kept_documents import KeptDocuments
from tradepost_broker.content.uploads import Uploads

#: The parts of a quota from which on, and down to which, the documents of finished jobs make room.
_CROWDED: Final = 0.75
_ROOMY: Final = 0.5


class AccountQuota:
    """Bounds what is kept for each account to `bytes_max`.

    `crowded` are the accounts for which each sweep makes room.
    """

    def __init__(self, *, uploads: Uploads, documents: KeptDocuments, bytes_max: int) -> None:
        self._uploads = uploads
        self._documents = documents
        self.bytes_max = bytes_max
        self.crowded: set[str] = set()
        #: Set when an account becomes crowded.
        self.room_wanted = asyncio.Event()

    def used_bytes(self, account: str) -> int:
        """What is kept for the account."""
        return self._uploads.used_bytes(f"account:{account}") + self._documents.bytes_of(account)

    def has_room(self, account: str, size_bytes: int) -> bool:
        """Whether `size_bytes` more fit. An account that becomes crowded with them asks for room."""
        wanted = self.used_bytes(account) + size_bytes
        is_crowded = wanted > _CROWDED * self.bytes_max and self._documents.bytes_of(account) > 0
        if is_crowded and account not in self.crowded:
            self.crowded.add(account)
            self.room_wanted.set()
        return wanted <= self.bytes_max

    def require(self, account: str, size_bytes: int) -> None:
        """Raise `QuotaExceeded` unless `size_bytes` more fit."""
        if not self.has_room(account, size_bytes):
            raise QuotaExceeded(
                f"{self.used_bytes(account):,} of {self.bytes_max:,} bytes are kept for {account}: uploaded "
                f"blocks, and inputs and outputs of jobs; this needs {size_bytes:,} more",
                limit_bytes=self.bytes_max,
            )

    def count(self, account: str, size_bytes: int) -> None:
        """Count a document of a job that came inside a message, and is kept from now on."""
        self._documents.add(account, size_bytes)

    def end_making_room(self, account: str) -> None:
        """Note that all documents were deleted that may be. If it is still crowded, it stays in `crowded`."""
        if self.used_bytes(account) <= _CROWDED * self.bytes_max:
            self.crowded.discard(account)

    def is_roomy(self, account: str) -> bool:
        """Whether enough room has been made."""
        return self.used_bytes(account) <= _ROOMY * self.bytes_max
