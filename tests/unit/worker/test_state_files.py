"""Every file of a worker's state folder, harmed in every way: doctor and `run` give one error."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from typer.testing import CliRunner

from tradepost.content import FolderStore
from tradepost.errors import RunnerFailed, StateFileDamaged, TradepostError
from tradepost_signing.keys import SigningKey
from tradepost_worker.assembly import worker_from_settings
from tradepost_worker.cli import app
from tradepost_worker.commands import doctor
from tradepost_worker.commands.health_checks import Check, Health
from tradepost_worker.commands.state_checks import examine_state
from tradepost_worker.commands.uninstall import remove_state
from tradepost_worker.link.joining import join
from tradepost_worker.settings import load_settings
from tradepost_worker.state import Membership, StateFolder
from tradepost_worker.supervision.runner_process import RunnerProcess

OPERATOR: Final = SigningKey.generate().public_key
REVOCATIONS: Final = f"revocations-{OPERATOR.id}.json"
#: What a worker reads when it starts. Those that it only writes are overwritten, whatever they hold.
READ: Final = ("worker.key", "membership.json", "trust.toml", "worker.sqlite")
#: Its name is another in each run, which a test's must not be.
LIST: Final = pytest.param(REVOCATIONS, id="revocations.json")
WRITTEN: Final = ("worker.lock", "connection.json", "standing.json", "speed.json")
FOLDERS: Final = ("blocks", "compiled")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def destroy(path: Path) -> None:
    path.write_bytes(b"\xa5\x00 what a failing disk returns \n" * 64)


def of_another_program(path: Path) -> None:
    contents = {
        ".json": b'{"version": 3}',
        ".toml": b"[tool]\nline = 3\n",
        ".key": ec.generate_private_key(ec.SECP384R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    }
    path.write_bytes(contents.get(path.suffix, b"#!/bin/sh\n"))


def make_folder(path: Path) -> None:
    path.mkdir()


def link_to_nothing(path: Path) -> None:
    path.symlink_to(path.parent / "a disk that is not mounted" / path.name)


def link_to_itself(path: Path) -> None:
    path.symlink_to(path)


HARMS: Final = (empty, destroy, of_another_program, make_folder, link_to_nothing, link_to_itself)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The state folder of a device that joined a market whose operator may revoke."""
    state = StateFolder(tmp_path / "state")
    state.join(
        Membership(
            broker_url="http://127.0.0.1:9",
            broker="b" * 52,
            worker=state.identity().id,
            owner="ada",
            device="attic",
            stake_microcredits=0,
            revocations_key=OPERATOR.pem.decode(),
        )
    )
    return state.path


@pytest.fixture(autouse=True)
def no_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start gets as far as the first runner."""

    async def refuse(**_: object) -> RunnerProcess:
        raise RunnerFailed("as far as the runners")

    monkeypatch.setattr(RunnerProcess, "start", refuse)


async def run(folder: Path) -> TradepostError:
    """What `tradepost worker run` ends with."""
    with pytest.raises(TradepostError) as caught:
        async with worker_from_settings(load_settings({"state_dir": folder}, {})):
            pytest.fail("there is no runner")
    return caught.value


def broken(folder: Path) -> list[Check]:
    found = examine_state(load_settings({"state_dir": folder}, {}))
    return [check for check in found if check.health is Health.BROKEN]


async def test_a_sound_folder_is_sound(folder: Path) -> None:
    assert broken(folder) == []
    assert isinstance(await run(folder), RunnerFailed)
    assert broken(folder) == [], "after a worker has run"


async def test_the_doctor_changes_no_block_and_waits_for_no_lock(folder: Path) -> None:
    FolderStore(folder / "blocks", bytes_max=1 << 20)
    count = folder / "blocks" / "bytes-used"
    count.write_bytes(b"\x07")  # as a crash may leave it: who opens the store mends it, under its lock
    assert broken(folder) == []
    assert count.read_bytes() == b"\x07"


@pytest.mark.parametrize("name", [*READ, LIST, *WRITTEN, *FOLDERS])
@pytest.mark.parametrize("harm", HARMS)
async def test_the_doctor_and_a_start_say_the_same_of_a_harmed_file(
    folder: Path, name: str, harm: Callable[[Path], None]
) -> None:
    path = folder / name
    if name == "blocks" and harm is make_folder:
        pytest.skip("that is what it is")
    path.unlink(missing_ok=True)
    harm(path)
    found, error = broken(folder), await run(folder)
    if isinstance(error, RunnerFailed):
        assert found == []
        assert name in (*WRITTEN, "compiled", "trust.toml")
        assert name != "trust.toml" or harm is empty, "an empty policy is one that trusts nobody"
        return
    assert [(check.says, check.fix) for check in found] == [(str(error), error.hint)]
    assert str(path) in str(error), "the file is named"
    assert "keygen" not in error.hint
    assert "publisher" not in error.fault


@pytest.mark.parametrize("name", ["worker.key", "membership.json", LIST])
async def test_what_the_hint_says_mends_it(folder: Path, name: str) -> None:
    """Away with the file: it can be made again, by joining or by the broker."""
    path = folder / name
    path.unlink(missing_ok=True)
    destroy(path)
    assert "move it away" in (await run(folder)).hint
    path.rename(folder / "away")
    state = StateFolder(folder)
    assert state.identity().id
    if name == "membership.json":
        assert state.membership() is None
    elif name == REVOCATIONS:
        assert isinstance(await run(folder), RunnerFailed)


async def test_a_lost_key_is_not_replaced_by_one_that_the_broker_does_not_know(folder: Path) -> None:
    (folder / "worker.key").unlink()
    error = await run(folder)
    assert isinstance(error, StateFileDamaged)
    assert not (folder / "worker.key").exists()
    assert [check.says for check in broken(folder)] == [str(error)]
    StateFolder(folder).identity()  # as joining again makes it, had it not been interrupted
    assert "is the key of worker" in str(await run(folder))


async def test_a_damaged_membership_costs_no_token(folder: Path) -> None:
    destroy(folder / "membership.json")
    with pytest.raises(StateFileDamaged):
        await join(
            StateFolder(folder), broker_url="http://127.0.0.1:9", token=f"{'x' * 32}.{'b' * 52}", device="x"
        )


@pytest.mark.parametrize("harm", HARMS)
async def test_an_unreadable_command_pauses_the_worker_and_the_doctor_says_what_to_do(
    folder: Path, harm: Callable[[Path], None]
) -> None:
    path = folder / "owner.json"
    harm(path)
    (check,) = broken(folder)
    assert str(path) in check.says
    assert "paused" in check.says
    if harm is make_folder:
        assert "Move it away" in check.fix
        path.rmdir()
    else:
        assert check.fix == "tradepost worker resume"
        assert CliRunner().invoke(app, ["resume", "--state-dir", str(folder)]).exit_code == 0
    assert broken(folder) == []


@pytest.mark.parametrize("name", [*READ, LIST, *WRITTEN, *FOLDERS, "owner.json", "worker.toml"])
@pytest.mark.parametrize("harm", HARMS)
def test_every_command_ends_with_a_typed_error_or_does_without(
    folder: Path, name: str, harm: Callable[[Path], None]
) -> None:
    path = folder / name
    path.unlink(missing_ok=True)
    harm(path)
    for command in ("status", "pause", "resume", "uninstall --yes"):
        result = CliRunner().invoke(app, [*command.split(), "--state-dir", str(folder)])
        if result.exception is not None:
            assert isinstance(result.exception, TradepostError), repr(result.exception)
            assert name in str(result.exception)


def test_uninstalling_removes_what_took_the_place_of_a_file(folder: Path) -> None:
    for name in WRITTEN:
        make_folder(folder / name)
    with pytest.raises(StateFileDamaged, match=r"worker\.lock"):
        StateFolder(folder).connection()
    shutil.rmtree(folder / "worker.lock")
    assert remove_state(StateFolder(folder)).left == ()
    assert not folder.exists()


def test_the_doctor_names_every_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command itself, which starts a runner and asks the broker too."""
    destroy(folder / "worker.key")
    monkeypatch.setattr(doctor.service, "installed_service", lambda: None)
    result = CliRunner().invoke(app, ["doctor", "--state-dir", str(folder)])
    assert result.exit_code == 12
    assert f"broken   key                    {folder / 'worker.key'} is not" in result.stdout
