"""Whether two delivered outputs agree within a tolerance, compared without stopping the event loop.

The outputs are copied block by block into unnamed files and compared from there, part by part, in a thread:
one operation on a whole output would hold the interpreter's lock for long. One comparison runs at a time, so
the memory that comparisons take does not grow with the load, nor with the size of the outputs.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import IO

from tradepost.content.storage.store import DISK_IS_FULL
from tradepost.errors import BrokerUnavailable, InvalidTensorDocument
from tradepost.pipeline.manifest import Tolerance
from tradepost.pipeline.tensors import TensorDocument, map_document
from tradepost_broker.content.uploads import Uploads
from tradepost_broker.market.trust.verification import compare_documents
from tradepost_broker.storage.shell_records import Delivery
from tradepost_broker.storage.store import Reader


class OutputComparison:
    """Compares outputs. `folder` is on a disk with room for two of them."""

    def __init__(self, *, store: Reader, uploads: Uploads, folder: Path) -> None:
        self._store = store
        self._uploads = uploads
        self._folder = folder
        self._one_at_a_time = asyncio.Lock()

    async def agree(self, delivery: Delivery, reference: str, tolerance: Tolerance) -> bool:
        """Whether the output in `delivery` agrees with that of the lease `reference`, which is durable.

        Raises `UnknownCid` or `ContentMismatch` if a block of an output is lost or damaged, and
        `BrokerUnavailable` if there is no room on the disk.
        """
        async with self._one_at_a_time:
            earlier = self._store.get(Delivery, reference)
            if earlier is None:
                return False
            try:
                return await asyncio.to_thread(self._agree, delivery, earlier, tolerance)
            except OSError as error:
                if error.errno not in DISK_IS_FULL:
                    raise
                raise BrokerUnavailable(f"there is no room to compare outputs: {error.strerror}") from None

    def _agree(self, delivery: Delivery, earlier: Delivery, tolerance: Tolerance) -> bool:
        with (
            tempfile.TemporaryFile(dir=self._folder) as ours,
            tempfile.TemporaryFile(dir=self._folder) as theirs,
        ):
            for one, file in ((delivery, ours), (earlier, theirs)):
                self._uploads.copy_output(one, file.write)
                file.flush()
            try:
                document, reference = map(_map, (ours, theirs))
            except InvalidTensorDocument:  # such bytes agree with nothing but themselves
                return False
            return compare_documents(document, reference, tolerance).agrees


def _map(file: IO[bytes]) -> TensorDocument:
    return map_document(Path(f"/proc/self/fd/{file.fileno()}"))
