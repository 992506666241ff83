"""A journal replays to the same digest; under another policy, figures and winners change."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from tradepost.errors import InvariantBroken, MissingDatabase
from tradepost_broker.market.core import Market
from tradepost_broker.market.model.entities import Account, Job
from tradepost_broker.market.model.events import Event, Instruction, Restarted, Save
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.market.testing import MarketDriver
from tradepost_broker.simulation import commands
from tradepost_broker.simulation.replay.observed import Observed
from tradepost_broker.simulation.replay.rerun import Rerun
from tradepost_broker.simulation.scenarios import Scenario, Team
from tradepost_broker.simulation.simulation import Simulation
from tradepost_broker.simulation.world.broker import Observer
from tradepost_broker.storage import database
from tradepost_broker.storage.store import Store
from tradepost_broker.storage.verify_books import KINDS

SCENARIO = Scenario(
    name="journalled",
    about="A market whose journal is kept.",
    teams=(Team(model="honest", workers=8), Team(model="lazy", workers=2)),
    jobs=60,
    rate_per_s=4.0,
    confidences=(0.9,),
    policy=MarketPolicy(hold_s=20.0, retain_s=5.0, late_receipt_s=10.0),
)


class Recorder(Observer):
    """Writes everything that a simulated broker commits into a real broker's database."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def decided(self, event: Event, answer: Sequence[Instruction], market: Market) -> None:
        assert not isinstance(event, Restarted)
        transaction = self._store.begin()
        transaction.journal(event)
        for instruction in answer:
            if isinstance(instruction, Save):
                transaction.save(instruction.record)
        transaction.flush()
        transaction.commit()


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the database of a simulated broker."""
    folder = tmp_path_factory.mktemp("broker")
    path = folder / "broker.sqlite3"
    database.migrate(path)
    with contextlib.closing(Store(path)) as store:
        policy = msgspec.msgpack.encode(SCENARIO.policy)
        store.record_start(at=0.0, version="test", policy=policy)
        Simulation(SCENARIO, 1, observers=(Recorder(store),)).run()
    return folder


def run(*words: str) -> str:
    result = CliRunner().invoke(commands.app, ["replay", *words])
    if result.exception is not None:
        raise result.exception
    return result.output


def test_the_same_policy_gives_the_same_digest(journal: Path) -> None:
    first, second = (json.loads(run(str(journal), "--json")) for _ in range(2))
    assert first == second
    assert first["stored"] == first["replayed"]
    assert first["recorded"]["jobs"] == 61  # and the probe
    assert first["replayed"] in run(str(journal / "broker.sqlite3"))


def test_another_policy_is_compared(journal: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("hold_s = 20.0\naudit_rate = 1.0\nfault_fraction = 0.4\n")
    compared = json.loads(run(str(journal), "--policy", str(policy), "--json"))
    recorded, same, other = compared["replay"]["recorded"], compared["same"], compared["other"]
    assert same["jobs"] == other["jobs"] == recorded["jobs"]
    assert abs(same["accepted"] - recorded["accepted"]) <= 3
    assert abs(same["results"] - recorded["results"]) <= 0.2 * recorded["results"]
    assert other["reference_runs"] > same["reference_runs"]
    assert other["results"] > same["results"]
    assert sum(one["then"] for one in compared["wins"]) <= recorded["jobs"]
    shown = run(str(journal), "--policy", str(policy))
    assert "Auctions won" in shown
    assert "latency p95 s" in shown


def test_the_same_policy_in_a_file_changes_nothing(journal: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("[market]\nhold_s = 20.0\nretain_s = 5.0\nlate_receipt_s = 10.0\n")
    compared = json.loads(run(str(journal), "--policy", str(policy), "--json"))
    assert compared["same"] == compared["other"]
    assert compared["winners_changed"] == 0


def ends_under(policy: MarketPolicy, events: Sequence[Event]) -> list[float]:
    """When each job of a journal without answers ends, in seconds after its submission."""
    rerun = Rerun(policy, Observed((), {kind: {} for kind in KINDS}), seed=0)
    rerun.run(events)
    jobs: Sequence[Job] = list(rerun.records[Job].values())
    return [job.finished_at - job.submitted_at for job in jobs if job.finished_at is not None]


def test_what_is_too_much_for_one_event_goes_on_at_once() -> None:
    recorded = MarketDriver(policy=MarketPolicy(jobs_per_event_max=0))
    recorded.fund()
    recorded.publish()
    for _ in range(40):
        recorded.submit(deadline_s=10.0, patience_s=100.0)
    whole, in_slices = (
        ends_under(MarketPolicy(jobs_per_event_max=limit), recorded.events) for limit in (0, 1)
    )
    assert len(whole) == len(in_slices) == 40
    assert max(whole) < 10.5
    assert 10.5 < max(in_slices) < 11.5


def test_a_job_that_comes_after_a_pause_is_reviewed_until_it_ends() -> None:
    recorded = MarketDriver()
    recorded.fund()
    recorded.publish()
    recorded.at += 25.0
    recorded.submit(patience_s=5.0)
    [after_s] = ends_under(MarketPolicy(), recorded.events)
    assert 5.0 <= after_s < 6.0


def test_a_changed_record_is_found(journal: Path, tmp_path: Path) -> None:
    copy = tmp_path / "broker.sqlite3"
    copy.write_bytes((journal / "broker.sqlite3").read_bytes())
    with contextlib.closing(Store(copy)) as store:
        account = next(one for one in store.find(Account) if one.available_microcredits)
        account.available_microcredits -= 1
        transaction = store.begin()
        transaction.save(account)
        transaction.flush()
        transaction.commit()
    with pytest.raises(InvariantBroken, match="the replay"):
        run(str(tmp_path))


def test_a_missing_database_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingDatabase, match="does not exist"):
        run(str(tmp_path))
