"""Whether two delivered outputs agree within a tolerance, compared without stopping the event loop.

One comparison runs at a time, so the memory that comparisons take does not grow with the load, nor with the
size of the outputs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial

from tradepost.content.storage.store import DISK_IS_FULL
from tradepost.errors import BrokerUnavailable, InvalidTensorDocument
from tradepost.pipeline.agreement import Agreement, compare_documents
from tradepost.pipeline.manifest import Tolerance
from tradepost_broker.content.uploads import Uploads
from tradepost_broker.jobs.stored_documents import StoredDocuments
from tradepost_broker.storage.shell_records import Delivery
from tradepost_broker.storage.store import Reader


class OutputComparison:
    """Compares outputs."""

    def __init__(self, *, store: Reader, uploads: Uploads, documents: StoredDocuments) -> None:
        self._store = store
        self._uploads = uploads
        self._documents = documents
        self._one_at_a_time = asyncio.Lock()

    async def compare(
        self,
        delivery: Delivery,
        other: str,
        tolerances: Mapping[str, Tolerance | None],
        *,
        is_reference: bool,
    ) -> Agreement:
        """Whether the output in `delivery` agrees with that of the lease `other`, which is durable.

        `tolerances` has one for each tensor, `None` where the bits must be equal.
        `is_reference` says that `delivery` is the reference by which the other is measured.
        Raises `UnknownCid` or `ContentMismatch` if a block of an output is lost or damaged, and
        `BrokerUnavailable` if there is no room on the disk.
        """
        async with self._one_at_a_time:
            earlier = self._store.get(Delivery, other)
            if earlier is None:
                return Agreement(False, "the other output is gone")
            try:
                return await asyncio.to_thread(self._compare, earlier, delivery, tolerances, is_reference)
            except OSError as error:
                if error.errno not in DISK_IS_FULL:
                    raise
                raise BrokerUnavailable(f"there is no room to compare outputs: {error.strerror}") from None

    def _compare(
        self,
        earlier: Delivery,
        delivery: Delivery,
        tolerances: Mapping[str, Tolerance | None],
        is_reference: bool,
    ) -> Agreement:
        copy = self._uploads.copy_output
        try:
            with (
                self._documents.mapped(partial(copy, earlier)) as document,
                self._documents.mapped(partial(copy, delivery)) as newest,
            ):
                return compare_documents(document, newest, tolerances, has_reference=is_reference)
        except InvalidTensorDocument:  # such bytes agree with nothing but themselves
            return Agreement(False, "an output is no tensor document")
