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
from tradepost_broker.market.model.entities import Account
from tradepost_broker.market.model.events import Event, Instruction, Restarted, Save
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.simulation import commands
from tradepost_broker.simulation.scenarios import Scenario, Team
from tradepost_broker.simulation.simulation import Simulation
from tradepost_broker.simulation.world.broker import Observer
from tradepost_broker.storage import database
from tradepost_broker.storage.store import Store

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
