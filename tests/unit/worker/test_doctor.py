"""Each check of the doctor: what is fine, what is not, and that every finding names its fix."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import NoReturn, get_args

import pytest

from tradepost.errors import PipelineTooCostly, RunnerFailed, UntrustedSigner
from tradepost.pipeline.manifest import Provider
from tradepost_signing.keys import SigningKey
from tradepost_worker.commands import doctor, service, state_checks
from tradepost_worker.commands import health_checks as checks
from tradepost_worker.commands.health_checks import Check, Health
from tradepost_worker.leases.outbox import Outbox
from tradepost_worker.runner.inference import PROVIDERS
from tradepost_worker.runner.lockdown import Isolation
from tradepost_worker.runner.messages import Ready
from tradepost_worker.settings import load_settings
from tradepost_worker.state import Membership, StateFolder
from tradepost_worker.supervision.runner_process import RunnerProcess


def found(check: Check) -> Health:
    """How bad it is; whatever is not fine has a fix."""
    assert check.says
    assert bool(check.fix) == (check.health is not Health.OK)
    return check.health


@pytest.mark.parametrize(("bits", "health"), [(64, Health.OK), (32, Health.BROKEN)])
def test_the_engines_need_64_bits(bits: int, health: Health) -> None:
    assert found(checks.check_bits(bits, "3.11.2")) is health


@pytest.mark.parametrize(
    ("name", "version", "system", "health"),
    [
        ("glibc", "2.36", "linux", Health.OK),
        ("glibc", "2.28", "linux", Health.OK),
        ("glibc", "2.9", "linux", Health.BROKEN),
        ("", "", "linux", Health.BROKEN),  # what Python says on musl
        ("", "", "darwin", Health.OK),
    ],
)
def test_the_c_library(name: str, version: str, system: str, health: Health) -> None:
    assert found(checks.check_libc(name, version, system=system)) is health


def test_every_wheel_is_for_a_provider_that_pipelines_can_name() -> None:
    assert set(checks.WHEELS.values()) <= PROVIDERS.keys()
    assert PROVIDERS.keys() == set(get_args(Provider))


def test_a_wheel_for_something_else_works_as_one_for_the_cpu() -> None:
    assert found(checks.check_wheels(["onnxruntime-qnn"])) is Health.OK
    assert "pip install onnxruntime" in checks.check_wheels(["onnxruntime", "onnxruntime-qnn"]).fix


def test_wheels_that_overwrite_each_other_are_found() -> None:
    assert doctor.installed_wheels() == ["onnxruntime"]
    assert found(checks.check_wheels(["onnxruntime"])) is Health.OK
    assert found(checks.check_wheels([])) is Health.BROKEN
    both = checks.check_wheels(["onnxruntime", "onnxruntime-gpu"])
    assert found(both) is Health.BROKEN
    assert both.fix.endswith("pip install onnxruntime-gpu")


def examine_files(folder: Path) -> list[Check]:
    return state_checks.examine_files(StateFolder(folder), None)


def test_a_key_that_others_can_read_is_found(tmp_path: Path) -> None:
    assert [found(check) for check in examine_files(tmp_path / "none")] == [Health.WARNING] * 2
    folder, key = tmp_path, tmp_path / "worker.key"
    folder.chmod(0o700)
    StateFolder(folder).identity()
    assert [found(check) for check in examine_files(tmp_path)] == [Health.OK] * 2
    folder.chmod(0o777)
    key.chmod(0o640)
    assert [found(check) for check in examine_files(tmp_path)] == [Health.BROKEN] * 2


def test_a_file_of_another_user_is_found() -> None:
    chown = "sudo chown -R ada ."
    check = checks.check_file("key", Path("key"), "key belongs to another user", fix=chown)
    assert found(check) is Health.BROKEN
    assert check.fix == chown


def test_trust(tmp_path: Path) -> None:
    path = tmp_path / "trust.toml"
    assert found(state_checks.examine_trust(path)) is Health.WARNING
    path.write_text("publisher = 3")
    assert found(state_checks.examine_trust(path)) is Health.BROKEN


def test_who_can_write_a_policys_files_decides_whom_the_device_trusts(tmp_path: Path) -> None:
    path, key = tmp_path / "trust.toml", tmp_path / "alice.pub"
    path.write_text('[[publisher]]\nname = "alice"\nkey = "alice.pub"\n')
    key.write_bytes(SigningKey.generate().public_key.pem)
    path.chmod(0o644)
    key.chmod(0o644)
    assert found(state_checks.examine_trust(path)) is Health.OK
    for file, mode in ((key, 0o646), (path, 0o664)):
        file.chmod(mode)
        check = state_checks.examine_trust(path)
        assert found(check) is Health.WARNING
        assert check.fix == f"chmod go-w {file}"


def authorities(paths: ssl.DefaultVerifyPaths) -> Check:
    return checks.check_authorities(doctor.found_authorities(paths))


def test_certificate_authorities(tmp_path: Path) -> None:
    paths = ssl.DefaultVerifyPaths("/authorities.crt", None, "", "", "", "")
    assert found(authorities(paths)) is Health.OK
    bare = paths._replace(cafile=None, capath=str(tmp_path))  # as without Debian's ca-certificates
    assert found(authorities(bare)) is Health.WARNING
    assert found(authorities(bare._replace(capath=None))) is Health.WARNING
    (tmp_path / "authority.pem").touch()
    assert found(authorities(bare)) is Health.OK


def test_disk(tmp_path: Path) -> None:
    assert found(doctor.examine_disk(tmp_path / "not" / "made", 0)) is Health.OK
    assert found(doctor.examine_disk(tmp_path, 1 << 60)) is Health.BROKEN


@pytest.mark.parametrize(
    ("skew_s", "health"),
    [
        (0, Health.OK),
        (-29, Health.OK),
        (31, Health.WARNING),
        (-3600, Health.WARNING),
        (90_000, Health.BROKEN),
    ],
)
def test_the_clock(skew_s: float, health: Health) -> None:
    assert found(checks.check_clock(skew_s)) is health


async def test_a_pipeline_that_this_device_refused_is_mentioned_until_it_has_run(tmp_path: Path) -> None:
    path = tmp_path / "worker.sqlite"
    outbox = Outbox(path, clock=lambda: 1000.0)
    too_costly = PipelineTooCostly("killed because it used 1,150,000,000 bytes of memory").to_problem()
    outbox.note_refusal("bafylarge", too_costly)
    outbox.note_refusal("bafyother", UntrustedSigner("no").to_problem())  # which the owner wants so
    await outbox.flush()
    (check,) = doctor.examine_refusals(path, since=500.0)
    assert found(check) is Health.WARNING
    assert "bafylarge: This pipeline needs more memory" in check.says
    assert "1,150,000,000 bytes" in check.says
    assert doctor.examine_refusals(path, since=2000.0) == []
    outbox.note_refusal("bafylarge", None)
    await outbox.flush()
    outbox.close()
    assert doctor.examine_refusals(path, since=500.0) == []


def test_a_key_that_is_a_link_to_nothing_is_not_an_absent_one(tmp_path: Path) -> None:
    (tmp_path / "worker.key").symlink_to(tmp_path / "a disk that is not mounted")
    folder, key = examine_files(tmp_path)
    assert found(folder) is Health.OK
    assert found(key) is Health.BROKEN
    assert "which does not exist" in key.says


def test_linger_is_what_needs_root() -> None:
    assert found(checks.check_linger(is_on=True, user="ada")) is Health.OK
    check = checks.check_linger(is_on=False, user="ada")
    assert found(check) is Health.WARNING
    assert check.fix == "sudo loginctl enable-linger ada"


def test_limits_that_nothing_can_hold(tmp_path: Path) -> None:
    settings = load_settings({"state_dir": tmp_path}, {})
    assert [found(check) for check in doctor.examine_limits(settings, [])] == [Health.OK]
    half = load_settings({"state_dir": tmp_path, "gpu_percent": 50}, {})
    (check,) = doctor.examine_limits(half, ["onnxruntime-gpu"])
    assert found(check) is Health.WARNING
    assert "not enforceable here" in check.says
    assert "cuda" in check.says


def test_what_a_runner_says() -> None:
    isolation = Isolation(achieved=("process",), refused={"landlock": "the kernel has none"})
    ready = Ready(isolation=isolation, providers=("cpu",), engines={"wasmtime": "50"}, code="0" * 64)
    healths = {
        check.name: found(check) for check in checks.check_ready(ready, ["onnxruntime", "onnxruntime-gpu"])
    }
    assert healths == {
        "engines": Health.OK,
        "isolation": Health.OK,
        "isolation landlock": Health.WARNING,
        "providers": Health.OK,
        "provider cuda": Health.BROKEN,
    }


def test_a_gpu_provider_that_works_in_the_sandbox_is_fine() -> None:
    isolation = Isolation(achieved=("process",), refused={})
    ready = Ready(isolation=isolation, providers=("cuda", "cpu"), engines={"onnxruntime": "1"}, code="")
    findings = checks.check_ready(ready, ["onnxruntime-gpu"])
    assert {found(check) for check in findings} == {Health.OK}


async def test_a_device_where_nothing_works_is_examined_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def start(**_: object) -> NoReturn:
        raise RunnerFailed("ImportError: libonnxruntime.so: cannot open shared object file")

    monkeypatch.setattr(RunnerProcess, "start", start)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(service, "lingers", lambda: False)
    settings = load_settings({"state_dir": tmp_path / "state"}, {})
    findings = {check.name: check for check in await doctor.examine(settings)}
    assert found(findings["runner"]) is Health.BROKEN
    assert "cannot open shared object file" in findings["runner"].says
    assert found(findings["broker"]) is Health.WARNING
    assert "linger" not in findings  # which only matters to a service

    service.install(service.SystemdUnit(), settings.state_dir, start=False)
    unreachable = Membership(
        broker_url="http://127.0.0.1:1", broker="b", worker="w", owner="o", device="d", stake_microcredits=1
    )
    StateFolder(settings.state_dir).join(unreachable)
    findings = {check.name: check for check in await doctor.examine(settings)}
    assert found(findings["broker"]) is Health.BROKEN
    assert "http://127.0.0.1:1" in findings["broker"].fix
    assert found(findings["linger"]) is Health.WARNING

    (settings.state_dir / "membership.json").write_text("half a fi")
    findings = {check.name: check for check in await doctor.examine(settings)}
    assert found(findings["broker"]) is Health.WARNING
    assert found(findings["membership"]) is Health.BROKEN
    assert "membership.json" in findings["membership"].says
