"""`tradepost submit` and `tradepost jobs`: no paid result is lost, and every job has a name."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from typer import Typer
from typer.testing import CliRunner

from tradepost import Client, TensorDocument
from tradepost.client.job_request import PREFERENCES
from tradepost.client.sync_client import JobHandle
from tradepost.commands.jobs import app as jobs_app
from tradepost.commands.output_file import check_writable, write_output
from tradepost.commands.submit import submit
from tradepost.errors import (
    BrokerUnavailable,
    FileNotWritten,
    InvalidCall,
    InvalidCommandLine,
    InvalidInput,
    PriceCapTooLow,
    ResultTimeout,
    ResultWithdrawn,
    UnknownJob,
    UnknownPipeline,
)
from tradepost.pipeline.tensors import decode
from tradepost.protocol import EngineFloor, Requirements, TypicalPrice
from tradepost.testing.broker_thread import FakeBrokerThread
from tradepost.testing.fake_broker import API_KEY

PIPELINE = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"


def double(document: TensorDocument) -> TensorDocument:
    return TensorDocument(tensors={"y": document["x"] * np.float32(2)})


@pytest.fixture
def fake() -> Iterator[FakeBrokerThread]:
    with FakeBrokerThread(double) as running:
        yield running


@pytest.fixture
def tensor(tmp_path: Path) -> str:
    np.save(tmp_path / "x.npy", np.ones(2, np.float32))
    return f"x={tmp_path / 'x.npy'}"


def run(fake: FakeBrokerThread, *arguments: str) -> Any:
    """A command's end; `arguments` begin with `submit`, or with one of the commands of `jobs`."""
    commands = jobs_app
    if arguments[0] == "submit":
        commands = Typer()
        commands.command()(submit)
        arguments = (*arguments[1:], "--max-price", "1", "--give-up-s", "1")
    environment = {"TRADEPOST_URL": fake.url, "TRADEPOST_API_KEY": API_KEY}
    return CliRunner().invoke(commands, list(arguments), env=environment)


# Where the result goes


def test_submit_names_the_job_and_writes_the_result(
    fake: FakeBrokerThread, tensor: str, tmp_path: Path
) -> None:
    output, receipts = tmp_path / "y.safetensors", tmp_path / "receipts.json"
    ended = run(
        fake, "submit", PIPELINE, "--tensor", tensor, "--output", str(output), "--receipts", str(receipts)
    )
    assert ended.exit_code == 0, ended.output
    assert ended.stderr == "Job job-0 is submitted.\n"
    assert decode(output.read_bytes())["y"].tolist() == [2, 2]
    assert len(json.loads(receipts.read_text())) == 1


def test_json_has_nothing_but_json(fake: FakeBrokerThread, tensor: str) -> None:
    ended = run(fake, "submit", PIPELINE, "--tensor", tensor, "--json")
    assert json.loads(ended.stdout)["job"] == "job-0"
    assert ended.stderr == ""


@pytest.mark.parametrize("option", ["--output", "--receipts"])
@pytest.mark.parametrize("place", ["absent/y", ".", "link"])
def test_a_bad_place_is_refused_before_anything_is_submitted(
    fake: FakeBrokerThread, tensor: str, tmp_path: Path, option: str, place: str
) -> None:
    (tmp_path / "link").symlink_to("link")
    ended = run(fake, "submit", PIPELINE, "--tensor", tensor, option, str(tmp_path / place))
    assert type(ended.exception) is FileNotWritten
    assert fake.broker.requests == []
    ended = run(fake, "result", "job-0", option, str(tmp_path / place))
    assert type(ended.exception) is FileNotWritten


@contextmanager
def full_disk() -> Iterator[None]:
    """Within this, no file grows beyond a few bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_result_that_cannot_be_written_is_fetched_later(
    fake: FakeBrokerThread, tensor: str, tmp_path: Path
) -> None:
    output = tmp_path / "y.safetensors"
    output.write_bytes(b"before")
    with full_disk():
        ended = run(fake, "submit", PIPELINE, "--tensor", tensor, "--output", str(output))
    assert type(ended.exception) is FileNotWritten
    assert "tradepost jobs result job-0 --output FILE" in ended.exception.hint
    assert output.read_bytes() == b"before"
    ended = run(fake, "result", "job-0", "--output", str(output))
    assert ended.exit_code == 0, ended.output
    assert decode(output.read_bytes())["y"].tolist() == [2, 2]
    assert len(fake.broker.requests) == 1


def test_places_that_can_be_written(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.write_bytes(b"before")
    (tmp_path / "link").symlink_to(there)
    for path in (tmp_path / "new", there, tmp_path / "link", Path(os.devnull), None):
        check_writable(path)
        write_output(path, b"after")
    assert there.read_bytes() == b"after"
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o666 & ~0o022
    assert sorted(one.name for one in tmp_path.iterdir()) == ["link", "new", "there"]


# What became of a job


def test_jobs_are_listed_page_by_page(fake: FakeBrokerThread, tensor: str) -> None:
    assert run(fake, "list").stdout == "There are no jobs.\n"
    for _ in range(3):
        run(fake, "submit", PIPELINE, "--tensor", tensor)
    first = run(fake, "list", "--limit", "2").stdout.splitlines()
    assert [line.split()[0] for line in first[:2]] == ["job-2", "job-1"]
    assert first[0].endswith("accepted   0.001 credits")
    assert first[2] == "Show older jobs: tradepost jobs list --before job-1"
    page = json.loads(run(fake, "list", "--before", "job-1", "--json").stdout)
    assert [entry["job"] for entry in page["jobs"]] == ["job-0"]
    assert page["older"] is None


def test_a_result_is_waited_for_and_checked(fake: FakeBrokerThread) -> None:
    fake.broker.hold = True
    with Client(fake.url, api_key=API_KEY) as client:
        client.submit(PIPELINE, {"x": np.ones(1, np.float32)}, max_price=1)
    assert type(run(fake, "result", "job-0", "--timeout-s", "0").exception) is ResultTimeout
    fake.run(fake.broker.release())
    shown = json.loads(run(fake, "result", "job-0", "--json").stdout)
    assert (shown["job"], shown["tensors"]) == ("job-0", {"y": [2.0]})
    assert type(run(fake, "result", "another").exception) is UnknownJob


@pytest.mark.parametrize(
    ("is_quarantined", "line"),
    [(False, "Its jobs can run again.\n"), (True, "It is still quarantined for all accounts.\n")],
)
def test_lifting_a_quarantine_says_whether_jobs_can_run(
    fake: FakeBrokerThread, is_quarantined: bool, line: str
) -> None:
    fake.broker.quarantined_for_all = {PIPELINE} if is_quarantined else set()
    assert run(fake, "lift-quarantine", PIPELINE).stdout == line
    shown = json.loads(run(fake, "lift-quarantine", PIPELINE, "--json").stdout)
    assert shown == {"pipeline": PIPELINE, "quarantined": is_quarantined}
    assert type(run(fake, "lift-quarantine", "nonsense").exception) is UnknownPipeline


# Interruptions


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("price_microcredits", "paid"), [(0, "nothing was paid"), (1200, "0.0012 credits were paid")]
)
def test_interrupting_submit_cancels_the_job(
    fake: FakeBrokerThread, tensor: str, monkeypatch: pytest.MonkeyPatch, price_microcredits: int, paid: str
) -> None:
    fake.broker.hold = True
    fake.broker.cancelled_price_microcredits = price_microcredits
    monkeypatch.setattr(JobHandle, "result", interrupt)
    ended = run(fake, "submit", PIPELINE, "--tensor", tensor)
    assert ended.exit_code == 130
    assert f"Cancelling job job-0\nIt is cancelled, and {paid}.\n" in ended.stderr
    assert [view.status.value for view in fake.broker.jobs.views.values()] == ["cancelled"]


def test_cancelling_shows_what_was_paid(fake: FakeBrokerThread) -> None:
    fake.broker.hold = True
    fake.broker.cancelled_price_microcredits = 1200
    with Client(fake.url, api_key=API_KEY) as client:
        client.submit(PIPELINE, {"x": np.ones(1, np.float32)}, max_price=1)
    assert run(fake, "cancel", "job-0").stdout == "job-0: cancelled, 0.0012 credits\n"


def test_interrupting_too_late_says_how_to_get_the_result(
    fake: FakeBrokerThread, tensor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(JobHandle, "result", lambda job: (job.future().result(60), interrupt()))
    ended = run(fake, "submit", PIPELINE, "--tensor", tensor)
    assert ended.exit_code == 130
    assert "tradepost jobs result job-0" in ended.stderr


def test_interrupting_without_a_broker_says_how_to_cancel(
    fake: FakeBrokerThread, tensor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unavailable(_: JobHandle) -> bool:
        raise BrokerUnavailable("away")

    fake.broker.hold = True
    monkeypatch.setattr(JobHandle, "result", interrupt)
    monkeypatch.setattr(JobHandle, "cancel", unavailable)
    ended = run(fake, "submit", PIPELINE, "--tensor", tensor)
    assert ended.exit_code == 130
    assert "Cancel it: tradepost jobs cancel job-0" in ended.stderr


def test_interrupting_before_the_job_has_a_name_says_how_to_find_it(
    fake: FakeBrokerThread, tensor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Client, "submit", interrupt)
    ended = run(fake, "submit", PIPELINE, "--tensor", tensor)
    assert ended.exit_code == 130
    assert "tradepost jobs list" in ended.stderr


def test_interrupting_result_leaves_the_job(
    fake: FakeBrokerThread, tensor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.broker.hold = True
    with Client(fake.url, api_key=API_KEY) as client:
        client.submit(PIPELINE, {"x": np.ones(1, np.float32)}, max_price=1)
    monkeypatch.setattr(JobHandle, "result", interrupt)
    ended = run(fake, "result", "job-0")
    assert ended.exit_code == 130
    assert "Job job-0 is unaffected." in ended.stderr
    assert [view.status.value for view in fake.broker.jobs.views.values()] == ["accepted"]  # what it will be


@pytest.mark.process
def test_a_real_interrupt_cancels_the_job(fake: FakeBrokerThread, tensor: str) -> None:
    fake.broker.hold = True
    fake.broker.cancelled_price_microcredits = 1200
    command = [sys.executable, "-m", "tradepost", "submit", PIPELINE, "--tensor", tensor, "--max-price", "1"]
    environment = {**os.environ, "TRADEPOST_URL": fake.url, "TRADEPOST_API_KEY": API_KEY}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "Job job-0 is submitted.\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.endswith("It is cancelled, and 0.0012 credits were paid.\n")
    assert [view.status.value for view in fake.broker.jobs.views.values()] == ["cancelled"]


@pytest.mark.parametrize("before", ["zz", "", "../x", "a b"])
def test_an_unknown_cursor_ends_the_command(fake: FakeBrokerThread, tensor: str, before: str) -> None:
    assert run(fake, "submit", PIPELINE, "--tensor", tensor).exit_code == 0
    ended = run(fake, "list", "--before", before)
    assert isinstance(ended.exception, UnknownJob)
    assert repr(before) in ended.exception.detail
    assert ended.stdout == ""


@pytest.mark.parametrize("data", [b"", b"text", b"\x93NUMPY\x01\x00"])
def test_a_file_that_is_no_array_is_named_with_its_tensor(
    fake: FakeBrokerThread, tmp_path: Path, data: bytes
) -> None:
    (tmp_path / "photo.npy").write_bytes(data)
    ended = run(fake, "submit", PIPELINE, "--tensor", f"photo={tmp_path / 'photo.npy'}")
    assert isinstance(ended.exception, InvalidInput)
    assert f"tensor 'photo': {tmp_path / 'photo.npy'} cannot be read as an array" in ended.exception.detail
    assert "numpy.save" in ended.exception.hint
    np.save(tmp_path / "photo.npy", np.array([None]), allow_pickle=True)
    ended = run(fake, "submit", PIPELINE, "--tensor", f"photo={tmp_path / 'photo.npy'}")
    assert "tensor 'photo'" in ended.exception.detail


# Before submitting


def test_an_estimate_is_for_people_and_for_programs(fake: FakeBrokerThread, tensor: str) -> None:
    shown = run(fake, "estimate", PIPELINE, "--tensor", tensor)
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.splitlines() == [
        "price cap   0.001 credits for 1 result",
        "typical     unknown: no job of this pipeline was accepted lately",
        "latency     unknown: no runs were measured",
        "confidence  at most 0.999999",
        "owners      1 could run it",
    ]
    printed = json.loads(run(fake, "estimate", PIPELINE, "--input-bytes", "9", "--json").stdout)
    assert printed["cap_microcredits"] == 1000
    assert (printed["typical_price_microcredits"], printed["problem"]) == (None, None)
    assert [one.input_bytes for one in fake.broker.estimates][1:] == [9]
    assert fake.broker.requests == []


def test_an_estimate_shows_why_nobody_would_take_the_job(fake: FakeBrokerThread) -> None:
    error = PriceCapTooLow("1 result would cost more", hint="max_price 2 credits would match.")
    fake.broker.estimate = msgspec.structs.replace(
        fake.broker.estimate,
        problem=error.to_problem(),
        cap_microcredits=2_000_000,
        typical_price=TypicalPrice(price_microcredits=3_000_000, jobs=4, since=1.0),
        measured_runs=7,
        latency_p50_s=2.0,
        latency_p90_s=400.0,
        in_time=False,
        confidence_max=None,
    )
    shown = run(fake, "estimate", PIPELINE, "--input-bytes", "9", "--max-price", "1")
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.splitlines() == [
        f"It would fail: {error.title()} 1 result would cost more",
        "hint: max_price 2 credits would match.",
        "price cap   2 credits for 1 result",
        "typical     3 credits, the median of 4 recent jobs",
        "latency     2 s in half of the cases, 400 s in nine of ten, beyond the deadline (7 measured runs)",
        "confidence  none",
        "owners      1 could run it",
    ]


# Results that are found wrong later


def test_show_and_list_name_what_was_found_wrong(fake: FakeBrokerThread, tensor: str) -> None:
    for on_wrong in ("redo", "refund"):
        assert run(fake, "submit", PIPELINE, "--tensor", tensor, "--on-wrong", on_wrong).exit_code == 0
    assert run(fake, "submit", PIPELINE, "--tensor", tensor).exit_code == 0
    assert [request.on_wrong.value for request in fake.broker.requests] == ["redo", "refund", "redo"]
    right = TensorDocument(tensors={"y": np.zeros(1, np.float32)})
    fake.run(fake.broker.correct("job-0", right))
    fake.run(fake.broker.withdraw("job-1"))
    listed = run(fake, "list", "--changed").stdout.splitlines()
    assert [line.split()[0] for line in listed] == ["job-1", "job-0"]
    assert all(line.endswith("first result withdrawn") for line in listed)
    shown = run(fake, "show", "job-0").stdout
    assert "Its first result was withdrawn at " in shown
    assert shown.endswith("This is another one.\n")
    fake.broker.hold = True
    fake.run(fake.broker.redo("job-2", right))
    assert run(fake, "show", "job-2").stdout.endswith("The job runs again.\n")
    assert run(fake, "cancel", "job-2").exit_code == 0
    assert "It has no other one.\n" in run(fake, "show", "job-2").stdout
    assert run(fake, "cancel", "job-0").stdout.endswith("It had ended before, so it was not cancelled.\n")
    shown = run(fake, "show", "job-1").stdout
    assert shown.startswith("job-1: withdrawn, 0 credits\n")
    assert "Do not use the result" in shown
    ended = run(fake, "result", "job-1")
    assert type(ended.exception) is ResultWithdrawn


def test_show_names_a_result_that_is_in_doubt(fake: FakeBrokerThread, tensor: str) -> None:
    run(fake, "submit", PIPELINE, "--tensor", tensor)
    view = fake.broker.jobs.views["job-0"]
    fake.broker.jobs.views["job-0"] = msgspec.structs.replace(view, in_doubt_until=2e9)
    assert "The result is being checked, until 2033-05-1" in run(fake, "show", "job-0").stdout


# Requirements


def test_requirements_are_options(fake: FakeBrokerThread, tensor: str) -> None:
    options = [
        "--isolation=seccomp",
        "--provider=cuda",
        "--provider=cpu",
        "--engine=onnxruntime=1.25",
        "--score-min=0.5",
        "--owner=a",
        "--not-owner=b",
    ]
    for command in ("submit", "estimate"):
        ended = run(fake, command, PIPELINE, "--tensor", tensor, *options)
        assert ended.exit_code == 0, ended.output
    wanted = Requirements(
        isolation=("seccomp",),
        providers=("cuda", "cpu"),
        engines=(EngineFloor(engine="onnxruntime", version="1.25"),),
        score_min=0.5,
        owners_only=("a",),
        owners_excluded=("b",),
    )
    assert run(fake, "submit", PIPELINE, "--tensor", tensor, "--prefer", "load").exit_code == 0
    assert fake.broker.requests[1].preference == PREFERENCES["load"]
    assert fake.broker.requests[0].requirements == fake.broker.estimates[0].requirements == wanted


@pytest.mark.parametrize("engine", ["onnxruntime", "=1", "onnxruntime=", "onnxruntime=new"])
def test_an_engine_is_a_name_with_a_version(fake: FakeBrokerThread, tensor: str, engine: str) -> None:
    ended = run(fake, "estimate", PIPELINE, "--tensor", tensor, "--engine", engine)
    assert isinstance(ended.exception, InvalidCommandLine | InvalidCall)
    assert fake.broker.estimates == []
