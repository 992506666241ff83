"""Whether a delivered output is what its pipeline declares, checked before anything is decided by it.

What no honest run can give (bytes that are no tensor document, other tensors than the pipeline's) makes the
receipt invalid. What a run could give, though the manifest says otherwise (another dtype or shape, values out
of bounds), is a failure of the pipeline, `invalid-output`: as every failure, another owner must confirm it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tradepost.content import Cid, add_bytes
from tradepost.errors import (
    BrokerDefect,
    ContentMismatch,
    ContentStoreUnusable,
    InvalidOutput,
    InvalidReceipt,
    InvalidTensorDocument,
    TradepostError,
)
from tradepost.pipeline.manifest import Manifest
from tradepost.pipeline.tensor_specs import is_finite
from tradepost.pipeline.tensors import TensorDocument, decode
from tradepost.receipts import Failed, JobOutcome, Returned
from tradepost_broker.content.uploads import Uploads
from tradepost_broker.jobs.stored_documents import StoredDocuments

#: Outputs that are checked on the event loop, which takes less than a millisecond; larger ones in a thread.
_ON_THE_LOOP_BYTES_MAX: Final = 16 << 10


@dataclass(frozen=True, slots=True)
class CheckedResult:
    """The outcome that counts, and whether another owner's result must confirm it."""

    outcome: JobOutcome
    must_be_confirmed: bool = False


class OutputChecks:
    """Checks outputs, of uploaded ones one at a time."""

    def __init__(self, *, uploads: Uploads, documents: StoredDocuments) -> None:
        self._uploads = uploads
        self._documents = documents
        self._one_at_a_time = asyncio.Lock()

    async def check(
        self, manifest: Manifest, returned: Returned, *, lease: str, output: bytes | None
    ) -> CheckedResult:
        """What the returned output comes to: itself, or a failure if it is not as `manifest` declares.

        `output` is its bytes; without them, the lease has uploaded it. Raises `InvalidReceipt` for an output
        that is too large, is not the one that was signed, or that no run of the pipeline can give, and
        `BrokerDefect` if what was uploaded is lost.
        """
        limit = manifest.limits.output_bytes
        if returned.output_bytes > limit:
            raise InvalidReceipt(f"an output of {returned.output_bytes:,} bytes; the limit is {limit:,}")
        if output is None:
            async with self._one_at_a_time:
                return await self._check_uploaded(manifest, returned, f"lease:{lease}")
        if len(output) <= _ON_THE_LOOP_BYTES_MAX:
            return _check_inline(manifest, returned, output)
        return await asyncio.to_thread(_check_inline, manifest, returned, output)

    async def _check_uploaded(self, manifest: Manifest, returned: Returned, holder: str) -> CheckedResult:
        try:
            await self._uploads.tree(holder, returned.output, bytes_max=manifest.limits.output_bytes)
            return await asyncio.to_thread(self._check_file, manifest, returned)
        except InvalidReceipt:
            raise
        except (ContentMismatch, ContentStoreUnusable) as error:  # blocks were whole when they came
            raise BrokerDefect(f"the stored output of {holder}: {error}") from error
        except TradepostError as error:
            raise InvalidReceipt(f"the uploaded output: {error}") from None

    def _check_file(self, manifest: Manifest, returned: Returned) -> CheckedResult:
        def copy(write: Callable[[bytes], object]) -> None:
            limit = manifest.limits.output_bytes
            _check_size(returned, self._uploads.copy_file(returned.output, write, bytes_max=limit))

        with self._documents.mapped(copy) as document:
            return _check_document(manifest, returned, document)


def _check_inline(manifest: Manifest, returned: Returned, output: bytes) -> CheckedResult:
    if add_bytes(output, put=None) != Cid(returned.output):
        raise InvalidReceipt("the output's bytes do not match the signed CID")
    _check_size(returned, len(output))
    try:
        document = decode(output)
    except InvalidTensorDocument as error:
        raise InvalidReceipt(f"the output is not a tensor document: {error}") from None
    return _check_document(manifest, returned, document)


def _check_size(returned: Returned, size_bytes: int) -> None:
    if size_bytes != returned.output_bytes:
        raise InvalidReceipt(
            f"the output has {size_bytes:,} bytes; the receipt declares {returned.output_bytes:,}"
        )


def _check_document(manifest: Manifest, returned: Returned, document: TensorDocument) -> CheckedResult:
    if set(document.tensors) != set(manifest.outputs):
        raise InvalidReceipt(
            f"the output has the tensors {sorted(document.tensors)}; "
            f"the pipeline has {sorted(manifest.outputs)}"
        )
    try:
        manifest.check_output(document)
    except InvalidOutput as error:
        failed = Failed(stage=error.stage or "", code=error.code(), detail=error.detail)
        return CheckedResult(failed, must_be_confirmed=True)
    undeclared = (tensor for name, tensor in document.tensors.items() if name not in manifest.output_specs)
    return CheckedResult(returned, must_be_confirmed=not all(map(is_finite, undeclared)))
