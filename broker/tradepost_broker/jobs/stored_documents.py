"""Uploaded inputs and outputs as tensor documents in unnamed files, read from there part by part.

One operation on a whole document would hold the interpreter's lock for long, and it may exceed memory.
Everything here waits for the disk: it is called in threads.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tradepost.pipeline.tensors import TensorDocument, map_document


class StoredDocuments:
    """Maps documents. `folder` is on a disk with room for five of them."""

    def __init__(self, *, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def mapped(self, copy: Callable[[Callable[[bytes], object]], object]) -> Iterator[TensorDocument]:
        """The document whose parts `copy` gives to its argument, for the time of the `with` statement.

        Raises `InvalidTensorDocument`, and what `copy` raises.
        """
        with tempfile.TemporaryFile(dir=self._folder) as file:
            copy(file.write)
            file.flush()
            yield map_document(Path(f"/proc/self/fd/{file.fileno()}"))
