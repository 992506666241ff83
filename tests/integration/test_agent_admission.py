"""What an agent runs: what its owner trusts, what was promised, what its device can; the rest goes back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tradepost.protocol import GiveBack, GiveBackReason
from tradepost_worker.testing.agent_bench import MODEL, NOOP, AgentBench, PretendedRunners
from tradepost_worker.testing.samples import sample_input


async def test_a_pipeline_that_the_owner_does_not_trust_is_refused(bench: AgentBench) -> None:
    bench.trust_path.unlink()
    async with bench.agent():
        await bench.connected()
        refused = await bench.given_back()
        assert (refused.reason, refused.problem.code) == (GiveBackReason.REFUSED, "untrusted-pipeline")
        # The owner changes their mind while the worker runs, and back.
        bench.trust()
        await bench.returned()
        bench.trust_path.unlink()
        refused = await bench.given_back()
        assert refused.problem.code == "untrusted-pipeline"
    assert bench.runners.documents == [sample_input()]


async def test_a_policy_that_cannot_be_read_trusts_nobody(bench: AgentBench) -> None:
    bench.trust_path.write_text("publisher = 3")
    async with bench.agent():
        await bench.connected()
        refused = await bench.given_back()
    assert (refused.reason, refused.problem.code) == (GiveBackReason.REFUSED, "invalid-trust-policy")


async def test_a_manifest_for_another_cid_runs_nowhere(bench: AgentBench) -> None:
    bench.broker.pipelines[NOOP.cid] = bench.broker.pipelines[MODEL.cid]
    async with bench.agent():
        await bench.connected()
        assert (await bench.given_back()).problem.code == "content-mismatch"


async def test_a_pipeline_beyond_the_device_is_refused(bench: AgentBench) -> None:
    bench.memory_bytes_max = 1 << 20
    async with bench.agent():
        await bench.connected()
        end = await bench.given_back()
        assert (end.reason, end.problem.code) == (GiveBackReason.REFUSED, "no-eligible-worker")
    bench.memory_bytes_max, bench.providers = 4 << 30, ("cuda",)
    async with bench.agent():
        await bench.connected()
        await bench.broker.send(bench.broker.grant(MODEL, sample_input()))
        end = await bench.broker.next(GiveBack)
        assert (end.reason, end.problem.code) == (GiveBackReason.REFUSED, "no-eligible-worker")


async def test_a_model_runs_only_on_providers_that_the_owner_allows(bench: AgentBench) -> None:
    bench.trust_path.unlink()
    bench.trust(providers=("cuda",))
    async with bench.agent():
        await bench.connected()
        await bench.broker.send(bench.broker.grant(MODEL, sample_input()))
        assert (await bench.broker.next(GiveBack)).problem.code == "untrusted-pipeline"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"left_s": 0.0}, "deadline-exceeded"),
        ({"left_s": None}, "protocol-error"),
        ({"input": None}, "protocol-error"),
        ({"input_cid": "x"}, "protocol-error"),
        ({"pipeline": "no-cid"}, "invalid-cid"),
    ],
    ids=["expired", "no time left stated", "no input", "two inputs", "no pipeline"],
)
async def test_a_grant_that_makes_no_sense_is_given_back(
    bench: AgentBench, changes: dict[str, Any], code: str
) -> None:
    async with bench.agent():
        await bench.connected()
        assert (await bench.given_back(**changes)).problem.code == code
    assert bench.runners.documents == []


async def test_more_leases_than_offered_are_given_back(bench: AgentBench) -> None:
    bench.capacity, bench.runners.hold = 1, True
    async with bench.agent():
        await bench.connected()
        await bench.broker.send(bench.broker.grant(NOOP, sample_input()))
        assert (await bench.given_back()).problem.code == "device-busy"


class SlowToStop(PretendedRunners):
    """A run that is stopped ends only when it `may_stop`."""

    def __init__(self) -> None:
        super().__init__()
        self.stopping, self.may_stop = asyncio.Event(), asyncio.Event()

    async def run(self, *arguments: Any, **options: Any) -> Any:
        try:
            return await super().run(*arguments, **options)
        except asyncio.CancelledError:
            self.stopping.set()
            await self.may_stop.wait()
            raise


async def test_a_lease_whose_time_is_over_takes_no_place(bench: AgentBench) -> None:
    """The broker has granted its place again, while its runner is still being stopped."""
    bench.capacity, runners = 1, SlowToStop()
    async with bench.agent(runners=runners):
        await bench.connected()
        await bench.returned()
        runners.hold = True
        await bench.broker.send(bench.broker.grant(NOOP, sample_input(), left_s=2.0))
        await runners.stopping.wait()  # a little before the time is over
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        loop.call_later(2.0, over.set)
        await over.wait()
        runners.hold = False
        await bench.returned()
        runners.may_stop.set()
