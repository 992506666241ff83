"""A memory limit that its owner changes while the worker runs: it holds for admission and for the offer."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tradepost.errors import NoEligibleWorker
from tradepost.manifest import Manifest
from tradepost.protocol import Capabilities, Offer, UpdateOffer
from tradepost_signing.publisher import Publisher
from tradepost_worker.agent import Agent
from tradepost_worker.pipelines import PipelineLibrary


def test_less_memory_refuses_what_was_admitted(tmp_path) -> None:
    none = cast(Any, None)
    library = PipelineLibrary(
        broker=none, fetcher=none, trust_path=tmp_path, providers=(), memory_bytes_max=100
    )
    library._admitted["a pipeline"] = cast("asyncio.Task[Any]", None)
    library.hold_memory(100)
    assert library._admitted
    library.hold_memory(99)
    assert not library._admitted
    manifest = cast(Manifest, SimpleNamespace(stages=[SimpleNamespace(name="big", memory_bytes=100)]))
    with pytest.raises(NoEligibleWorker, match="99"):
        library._narrow(manifest, cast(Publisher, None))


def test_the_offer_names_the_memory_that_is_lent_now() -> None:
    capabilities = Capabilities(
        cores=1, memory_bytes=100, providers=("cpu",), engines={}, isolation=("process",)
    )
    offer = Offer(price_per_unit_microcredits=1, capacity=1, capabilities=capabilities)
    none = cast(Any, None)
    agent = Agent(
        worker=none,
        broker_id="",
        broker=none,
        offer=offer,
        leases=none,
        pipelines=none,
        outbox=none,
        rng=none,
        on_revocations=none,
    )
    sent: list[UpdateOffer] = []
    agent._stream = cast(Any, SimpleNamespace(send=sent.append))
    agent.offer_memory(100)
    assert sent == []
    agent.offer_memory(99)
    assert [one.offer.capabilities.memory_bytes for one in sent] == [99]
