"""A memory limit that its owner changes while the worker runs: it holds for admission and for the offer."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from tradepost.content import Cid, add_bytes
from tradepost.errors import NoEligibleWorker
from tradepost.protocol import Capabilities, Offer, UpdateOffer
from tradepost_signing.checks.publisher import Publisher
from tradepost_worker.leases.agent import Agent, AgentHooks
from tradepost_worker.leases.pipelines import PipelineLibrary, TrustedPipeline
from tradepost_worker.testing.samples import kernel_pipeline

BIG = kernel_pipeline(b"").manifest
NEEDED_BYTES = BIG.stages[0].memory_bytes


def test_less_memory_refuses_what_was_admitted(tmp_path) -> None:
    none = cast(Any, None)
    library = PipelineLibrary(
        broker=none, fetcher=none, trust_path=tmp_path, providers=(), memory_bytes_max=NEEDED_BYTES
    )
    library._admitted["a pipeline"] = cast("asyncio.Task[Any]", None)
    library.limit_memory(NEEDED_BYTES)
    assert library._admitted
    library.limit_memory(NEEDED_BYTES - 1)
    assert not library._admitted
    with pytest.raises(NoEligibleWorker, match=f"lends {NEEDED_BYTES - 1:,}"):
        library._narrow(BIG, cast(Publisher, None))


@pytest.mark.parametrize("document", ["input_bytes", "output_bytes"])
def test_documents_that_are_larger_than_what_is_lent_are_refused(tmp_path: Path, document: str) -> None:
    none = cast(Any, None)
    library = PipelineLibrary(
        broker=none, fetcher=none, trust_path=tmp_path, providers=(), memory_bytes_max=NEEDED_BYTES
    )
    for more, refused in ((0, nullcontext()), (1, pytest.raises(NoEligibleWorker, match="document"))):
        limits = msgspec.structs.replace(BIG.limits, **{document: NEEDED_BYTES + more})
        with refused:
            library._narrow(msgspec.structs.replace(BIG, limits=limits), cast(Publisher, None))


class SlowFetches(PipelineLibrary):
    """Admits any pipeline that fits, once its artifacts were fetched."""

    def __init__(self, trust_path: Path) -> None:
        none = cast(Any, None)
        super().__init__(
            broker=none, fetcher=none, trust_path=trust_path, providers=(), memory_bytes_max=NEEDED_BYTES
        )
        self.fetching = asyncio.Event()
        self.fetched = asyncio.Event()

    async def _admit(self, cid: Cid) -> TrustedPipeline:
        self._narrow(BIG, cast(Publisher, None))
        self.fetching.set()
        await self.fetched.wait()
        return cast(TrustedPipeline, SimpleNamespace(cid=cid))


async def test_less_memory_refuses_what_is_being_admitted(tmp_path: Path) -> None:
    library = SlowFetches(tmp_path / "trust.toml")
    cid = add_bytes(b"a pipeline", put=None)
    asked = asyncio.create_task(library.get(cid))
    await library.fetching.wait()
    library.limit_memory(NEEDED_BYTES - 1)
    library.fetched.set()
    with pytest.raises(NoEligibleWorker, match=f"lends {NEEDED_BYTES - 1:,}"):
        await asked
    library.limit_memory(NEEDED_BYTES)
    assert (await library.get(cid)).cid == cid


def test_the_offer_names_the_memory_that_is_lent_now() -> None:
    capabilities = Capabilities(
        cores=1, memory_bytes=100, providers=("cpu",), engines={}, isolation=("process",)
    )
    offer = Offer(price_per_unit_microcredits=1, capacity=1, capabilities=capabilities)
    none = cast(Any, None)
    agent = Agent(
        broker=none, offer=offer, leases=none, pipelines=none, hooks=AgentHooks(on_revocations=none), rng=none
    )
    sent: list[UpdateOffer] = []
    agent._stream = cast(Any, SimpleNamespace(send=sent.append))
    agent.offer_memory(100)
    assert sent == []
    agent.offer_memory(99)
    assert [one.offer.capabilities.memory_bytes for one in sent] == [99]
