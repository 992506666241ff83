"""Large outputs are compared at a real broker, before the turn of the delivery that needs it."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np
import pytest

from tradepost.content import Cid, FolderStore
from tradepost.pipeline.tensors import TensorDocument, encode
from tradepost.protocol import INLINE_BYTES_MAX, Grant, JobStatus
from tradepost_broker.engine.engine import Engine
from tradepost_broker.storage.shell_records import Delivery, InlineInput
from tradepost_broker.storage.store import Store
from tradepost_broker.testing import LocalBroker


async def test_large_outputs_are_compared_and_no_document_is_read_in_a_turn(
    broker: LocalBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = [encode(TensorDocument({"y": np.full(500_000, value, np.float32)})) for value in (1, 1.0001)]
    assert min(map(len, outputs)) > INLINE_BYTES_MAX
    assert outputs[0] != outputs[1]
    in_turn: list[bool] = []
    handle, get_block, get_record = Engine._handle, FolderStore.get, Store.get

    def handled(engine: Engine, *arguments: Any) -> Any:
        in_turn.append(True)
        try:
            return handle(engine, *arguments)
        finally:
            in_turn.pop()

    def block(blocks: FolderStore, cid: Cid) -> bytes:
        assert not in_turn or threading.current_thread() is not threading.main_thread()
        return get_block(blocks, cid)

    def record(store: Store, kind: type[Any], id_: str) -> Any:
        assert kind not in (Delivery, InlineInput) or not in_turn
        return get_record(store, kind, id_)

    monkeypatch.setattr(Engine, "_handle", handled)
    monkeypatch.setattr(FolderStore, "get", block)
    monkeypatch.setattr(Store, "get", record)
    key = await broker.account()
    pipeline = await broker.publish(key)
    workers = [
        await broker.worker(f"owner-{number}", script=lambda _, output=output: output)
        for number, output in enumerate(outputs)
    ]
    job = (await broker.submit(key, pipeline, confidence=0.9)).job
    grants = [await worker.expect(Grant) for worker in workers]
    for worker, grant, output in zip(workers, grants, outputs, strict=True):
        await worker.upload_output(grant, output)
    # Together, so that neither result is durable when the other is checked.
    await asyncio.gather(*(worker.answer(grant) for worker, grant in zip(workers, grants, strict=True)))
    view = await broker.result(key, job)
    assert view.status is JobStatus.ACCEPTED
    assert view.verification is not None
    assert set(view.verification.agreed) == {worker.id for worker in workers}
    for worker in workers:
        await worker.disconnect()
