"""Revocation on a device: what runs is stopped at once, older lists are refused, the newest holds offline."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tradepost.errors import InvalidRevocations, ProtocolError
from tradepost.protocol import Deliver, GiveBack, GiveBackReason, Revocations
from tradepost_signing.keys import SigningKey
from tradepost_signing.policy.revocation import RevocationDocument
from tradepost_signing.policy.revocation_store import SignedRevocations, sign_revocations
from tradepost_worker.link.joining import join
from tradepost_worker.state import StateFolder
from tradepost_worker.testing.fair_clock import FairClock
from tradepost_worker.testing.lent_device import (
    FOREVER,
    NOOP,
    LentDevice,
    lent_device,
    runners,
    until,
)
from tradepost_worker.testing.samples import sample_input


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[LentDevice]:
    async with lent_device(tmp_path / "state") as device:
        yield device


def listed(version: int, key: SigningKey, **entries: Any) -> SignedRevocations:
    return sign_revocations(RevocationDocument(version=version, issued_at=0, **entries), key)


async def revoke(home: LentDevice, version: int, *, key: SigningKey | None = None, **entries: Any) -> None:
    """Send a list, signed by the operator unless another revocation key is given."""
    key = key or home.broker.operator
    assert key is not None
    signed = listed(version, key, **entries)
    await home.broker.send(Revocations(signed.document, signed.bundle))


async def is_refused(home: LentDevice) -> None:
    """Grant a lease on NOOP, which comes back as revoked."""
    await home.broker.send(home.broker.grant(NOOP, sample_input()))
    end = await home.broker.next(GiveBack)
    assert (end.reason, end.problem.code) == (GiveBackReason.REFUSED, "revoked")


async def runs(home: LentDevice) -> None:
    """Grant a lease on NOOP, which is delivered."""
    await home.broker.send(home.broker.grant(NOOP, sample_input()))
    await home.broker.next(Deliver)


@pytest.mark.parametrize("what", ["pipeline", "artifact", "publisher"])
async def test_what_runs_is_stopped_within_a_second(home: LentDevice, what: str) -> None:
    publisher = home.broker.publisher.public_key.id
    entries: dict[str, Any] = {
        "pipeline": {"cids": {FOREVER.cid: "it never ends"}},
        "artifact": {"cids": {next(iter(FOREVER.artifacts)): "it never ends"}},
        "publisher": {"publishers": {publisher: "it never ends"}},
    }[what]
    async with home.worker():
        grant, runner = await home.forever()
        clock = FairClock(os.getpid(), runner.pid)
        await revoke(home, 1, **entries)
        end = await home.broker.next(GiveBack)
        assert clock.passed_s() < 1.0
        assert (end.lease, end.reason) == (grant.lease, GiveBackReason.REFUSED)
        assert (end.problem.code, "it never ends" in end.problem.detail) == ("revoked", True)

        def has_ended() -> bool:
            clock.look()  # while the runner can still tell how long it waited
            return not runner.is_running()

        await until(has_ended)
        assert clock.passed_s() < 1.0


async def test_no_runner_keeps_what_is_revoked(home: LentDevice) -> None:
    async with home.worker():
        await runs(home)
        (idle,) = runners()
        await revoke(home, 1, cids={NOOP.cid: ""})
        await until(lambda: not idle.is_running())


async def test_other_pipelines_go_on(home: LentDevice) -> None:
    async with home.worker():
        await runs(home)
        grant, runner = await home.forever()
        await revoke(home, 1, cids={NOOP.cid: ""})
        await is_refused(home)
        assert runner.is_running()
        await revoke(home, 2, cids={NOOP.cid: "", FOREVER.cid: ""})
        assert (await home.broker.next(GiveBack)).lease == grant.lease
        await revoke(home, 3)
        await runs(home)


async def test_an_old_or_badly_signed_list_is_refused(
    home: LentDevice, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tradepost_worker.leases.revocations")
    async with home.worker():
        await revoke(home, 2, cids={NOOP.cid: ""})
        await revoke(home, 1)
        await revoke(home, 3, key=SigningKey.generate())
        operator = home.broker.operator
        assert operator is not None
        mixed = Revocations(listed(3, operator).document, listed(4, operator).bundle)
        await home.broker.send(mixed)
        await is_refused(home)
    records = [record for record in caplog.records if record.name == "tradepost_worker.leases.revocations"]
    actions = [record.action for record in records]
    assert actions == ["revocations_enforced"] + ["revocations_refused"] * 3
    assert [record.code for record in records[1:]] == [
        "revocation-rollback",
        "untrusted-signer",
        "invalid-signature",
    ]


async def test_the_list_holds_after_a_restart_without_its_broker(home: LentDevice) -> None:
    async with home.worker():
        await runs(home)
        await revoke(home, 5, cids={NOOP.cid: ""})
        await is_refused(home)
    async with home.worker():
        await is_refused(home)  # nobody has sent the list again
        await revoke(home, 4)
        await is_refused(home)
        await revoke(home, 6)
        await runs(home)


async def test_a_damaged_list_lets_nothing_run(home: LentDevice) -> None:
    assert home.broker.operator is not None
    StateFolder(home.folder).revocations(home.broker.operator.public_key.id).write_text("{}")
    with pytest.raises(InvalidRevocations):
        async with home.worker():
            pass


async def test_the_operators_key_is_pinned(home: LentDevice) -> None:
    state, first = StateFolder(home.folder), home.broker.operator

    async def again() -> None:
        await join(state, broker_url=home.url, token=home.broker.token, device="lab")

    await again()
    home.broker.operator = SigningKey.generate()
    with pytest.raises(ProtocolError, match="another revocation key"):
        await again()
    home.broker.operator = None
    with pytest.raises(ProtocolError, match="another revocation key"):
        await again()
    membership = state.membership()
    assert membership is not None
    assert first is not None
    assert membership.revocations_key == first.public_key.pem.decode()


async def test_where_nobody_may_revoke_no_list_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = SigningKey.generate()
    async with lent_device(tmp_path / "state", may_revoke=False) as home, home.worker():
        await revoke(home, 1, key=key, cids={NOOP.cid: ""})
        await runs(home)
    assert "revocations_refused" in [getattr(record, "action", "") for record in caplog.records]
