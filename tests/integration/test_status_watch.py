"""`tradepost worker status --watch`: it looks again after each pause, says what changed, and ends quietly."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tradepost_worker.commands.report import WATCH_S, add_report_commands
from tradepost_worker.device.owner_command import Mode, OwnerCommand, OwnerCommandFile
from tradepost_worker.state import Membership, StateFolder

MEMBERSHIP = Membership(
    broker_url="http://127.0.0.1:1",
    broker="broker",
    worker="me",
    owner="ada",
    device="lab",
    stake_microcredits=1,
)


class Pauses:
    """Stands in for waiting: in each pause something happens on the device; after the last comes Ctrl-C."""

    def __init__(self, *happenings: Callable[[], None]) -> None:
        self._left = list(happenings)
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        if not self._left:
            raise KeyboardInterrupt
        self._left.pop(0)()


def watched(folder: Path, pauses: Pauses, *options: str) -> list[str]:
    """The lines that the command printed until it was interrupted."""
    app = typer.Typer()
    add_report_commands(app, pause=pauses)
    call = ["status", "--watch", "--state-dir", str(folder), *options]
    result = CliRunner().invoke(app, call, catch_exceptions=False)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout.splitlines()


def test_each_look_says_what_has_changed(tmp_path: Path) -> None:
    state = StateFolder(tmp_path)
    pauses = Pauses(
        lambda: state.join(MEMBERSHIP),
        lambda: OwnerCommandFile(state.owner_command).write(OwnerCommand(mode=Mode.PAUSE)),
    )
    before, joined, paused = watched(tmp_path, pauses)
    assert before.startswith("Not joined")
    assert joined == "Stopped; earned 0 credits for 0 of 0 leases."
    assert paused.startswith("Stopped; paused when it starts again;")
    assert pauses.seconds == [WATCH_S] * 3


@pytest.mark.parametrize("renders", [1, 4])
def test_as_json_each_look_is_one_line(tmp_path: Path, renders: int) -> None:
    pauses = Pauses(*[lambda: None] * (renders - 1))
    lines = watched(tmp_path, pauses, "--json")
    assert [json.loads(line)["running"] for line in lines] == [False] * renders


def test_without_it_one_look_is_enough(tmp_path: Path) -> None:
    app = typer.Typer()
    pauses = Pauses()
    add_report_commands(app, pause=pauses)
    result = CliRunner().invoke(app, ["status", "--state-dir", str(tmp_path)], catch_exceptions=False)
    assert len(result.stdout.splitlines()) == 1
    assert pauses.seconds == []
