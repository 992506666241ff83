"""Large outputs are compared at a real broker, before the turn of the delivery that needs it."""

from __future__ import annotations

import asyncio
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tradepost.content import Cid, FolderStore
from tradepost.pipeline.agreement import compare_documents
from tradepost.pipeline.manifest import Tolerance
from tradepost.pipeline.tensors import TensorDocument, encode, map_document
from tradepost.protocol import INLINE_BYTES_MAX, Acknowledged, Grant, JobStatus
from tradepost_broker.engine.turns import Turns
from tradepost_broker.jobs import output_comparison
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
    had_turns = set[type]()
    handle, get_block, get_record = Turns.handle, FolderStore.get, Store.get

    def handled(turns: Turns, *arguments: Any) -> Any:
        in_turn.append(True)
        had_turns.add(type(arguments[0]))
        try:
            return handle(turns, *arguments)
        finally:
            in_turn.pop()

    def block(blocks: FolderStore, cid: Cid) -> bytes:
        assert not in_turn or threading.current_thread() is not threading.main_thread()
        return get_block(blocks, cid)

    def record(store: Store, kind: type[Any], id_: str) -> Any:
        assert kind not in (Delivery, InlineInput) or not in_turn
        return get_record(store, kind, id_)

    monkeypatch.setattr(Turns, "handle", handled)
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
    assert had_turns, "no turn was looked into"
    for worker in workers:
        await worker.disconnect()


async def test_a_comparison_without_memory_sets_the_delivery_aside_and_blames_nobody(
    broker: LocalBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compare(*_: object) -> object:
        raise MemoryError

    monkeypatch.setattr(output_comparison, "compare_documents", compare)
    key = await broker.account()
    pipeline = await broker.publish(key)
    outputs = [encode(TensorDocument({"y": np.full(4, value, np.float32)})) for value in (1, 2, 1)]
    first, second = [
        await broker.worker(f"owner-{number}", script=lambda _, output=output: output)
        for number, output in enumerate(outputs[:2])
    ]
    job = (await broker.submit(key, pipeline, confidence=0.9, patience_s=600.0)).job
    await first.answer(await first.expect(Grant))
    third = await broker.worker("owner-2", script=lambda _: outputs[2])
    await second.answer(await second.expect(Grant))
    acknowledged = await second.expect(Acknowledged)
    assert acknowledged.problem is not None
    assert acknowledged.problem.code == "broker-defect"
    await third.answer(await third.expect(Grant))
    view = await broker.result(key, job)
    assert view.status is JobStatus.ACCEPTED
    assert view.verification is not None
    assert set(view.verification.agreed) == {first.id, third.id}
    assert (await broker.standing(second)).evidence_counts == {}
    for worker in (first, second, third):
        await worker.disconnect()


def test_a_comparison_takes_little_memory_however_large_the_outputs_are(tmp_path: Path) -> None:
    outputs = []
    for name, value in (("a", 1.0), ("b", 1.0001)):
        document = TensorDocument({"y": np.full(1 << 24, value, np.float32)})
        (tmp_path / name).write_bytes(encode(document))
        outputs.append(tmp_path / name)
    tracemalloc.start()
    try:
        a, b = map(map_document, outputs)
        assert compare_documents(a, b, Tolerance(atol=1e-2, rtol=1e-2)).agrees
        assert not compare_documents(a, b, Tolerance(atol=0.0, rtol=0.0)).agrees
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 16 << 20
