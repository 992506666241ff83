"""In a working folder that was deleted, every command's error tells that, and none ends in a traceback."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

import pytest

from tradepost import cli
from tradepost.errors import WorkingFolderDeleted

TOLD = "The working folder was deleted: change to a folder that exists."
PIPELINE = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
TOKEN = "x" * 26 + "." + "y" * 52


@contextmanager
def deleted_folder(tmp_path: Path) -> Iterator[None]:
    """Within this, the working folder is one that was deleted."""
    gone = tmp_path / "gone"
    gone.mkdir()
    with chdir(gone):
        gone.rmdir()
        yield


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "TRADEPOST_KEY_PASSPHRASE": "passphrase",
        "TRADEPOST_URL": "http://127.0.0.1:9",
        "TRADEPOST_API_KEY": "key",
        "HOME": str(tmp_path),
        "XDG_DATA_HOME": str(tmp_path / "data"),
    }.items():
        monkeypatch.setenv(name, value)


def problem(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> dict[str, str]:
    """What `tradepost` with these arguments reports to a program."""
    monkeypatch.setattr(sys, "argv", ["tradepost", *arguments, "--json"])
    with pytest.raises(SystemExit) as exited:
        cli.main()
    assert exited.value.code not in (0, 1, 2)
    printed = capsys.readouterr()
    told = json.loads((printed.err or printed.out).splitlines()[-1])
    return dict(told.get("problem", told))  # `verify` prints its verdict


@pytest.mark.parametrize(
    "command",
    [
        "keygen",
        "publish pipeline.toml --key key",
        "sign file --key key",
        "verify file --key key",
        "inspect file",
        "content add file",
        "content cid file",
        f"content get {PIPELINE} --store store",
        "content ls --store store",
        "kernel inspect kernel.wasm",
        "kernel run normalize --tensor x=x.npy",
        f"submit {PIPELINE} --max-price 1 --tensor x=x.npy",
        f"submit {PIPELINE} --max-price 1 --tensor x=x.npy --output out",
        "receipt verify receipts.json",
        "revocations sign list.toml --key key",
        "revocations show list.json",
        "trust check trust.toml",
        "worker run --state-dir state",
        "worker doctor --state-dir state",
        "worker limits show --state-dir state",
        "worker trust add alice alice.pub",
        f"worker join http://127.0.0.1:9 --token {TOKEN} --state-dir state",
        "broker run --data-dir data --port 0",
        "broker run --config broker.toml",
        "broker account create alice --data-dir data",
        "broker verify-books --data-dir data",
        "market replay data",
        "demo --folder demo",
    ],
)
def test_an_error_in_a_deleted_working_folder_tells_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    with deleted_folder(tmp_path):
        told = problem(monkeypatch, capsys, *command.split())
    if told["code"] == WorkingFolderDeleted.code():
        assert told["hint"] == WorkingFolderDeleted.default_hint
    else:
        assert told["hint"].endswith(TOLD)


def test_a_hint_that_cannot_help_is_replaced_and_another_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with deleted_folder(tmp_path):
        assert problem(monkeypatch, capsys, "sign", "file", "--key", "key")["hint"] == TOLD
        kept = problem(monkeypatch, capsys, "broker", "jobs", "--data-dir", str(tmp_path))["hint"]
    assert kept.startswith("Start a broker with `tradepost broker run`")
    assert kept.endswith(TOLD)
    monkeypatch.chdir(tmp_path)
    elsewhere = problem(monkeypatch, capsys, "sign", "file", "--key", "key")["hint"]
    assert elsewhere == "Create a key with `tradepost keygen`."


def test_an_absent_file_that_no_command_expected_is_a_defect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: str) -> None:
        raise FileNotFoundError(2, "No such file or directory", path)

    monkeypatch.setattr(sys, "argv", ["tradepost", "jobs"])
    monkeypatch.setattr(cli, "app", lambda **_: fail("relative"))
    with pytest.raises(FileNotFoundError):
        cli.main()
    with deleted_folder(tmp_path):
        with pytest.raises(SystemExit):
            cli.main()
        monkeypatch.setattr(cli, "app", lambda **_: fail("/absolute"))
        with pytest.raises(FileNotFoundError):
            cli.main()
