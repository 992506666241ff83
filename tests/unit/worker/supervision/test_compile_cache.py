"""The cache of compiled kernels gives back what this agent wrote, for the same purpose, or nothing."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from wasmtime import Module

from tradepost_worker.commands.health_checks import Check, Health, check_compiled
from tradepost_worker.runner import wasm_profile
from tradepost_worker.runner.lockdown import Isolation
from tradepost_worker.runner.messages import COMPILED_BYTES_MAX, Ready
from tradepost_worker.supervision import compile_cache, private_files
from tradepost_worker.supervision.compile_cache import CompileCache, what_is_wrong

READY = Ready(
    isolation=Isolation(achieved=(), refused={}), providers=(), engines={"wasmtime": "50"}, code="c" * 64
)
PIPELINE, KERNEL, CODE = "pipeline", "kernel", b"native code" * 100
SIZE = 32 + len(CODE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "compiled"


@pytest.fixture
def cache(folder: Path) -> CompileCache:
    cache = CompileCache(folder, bytes_max=10 * SIZE)
    cache.write(READY, PIPELINE, {KERNEL: CODE}, ())
    return cache


def look(cache: CompileCache) -> bytes | None:
    return cache.read(READY, PIPELINE, [KERNEL]).get(KERNEL)


def checked(folder: Path) -> Check:
    return check_compiled(folder, what_is_wrong(folder))


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name not in ("key", "tampered"))


def was_put_aside(folder: Path) -> bool:
    return (folder / "tampered").exists()


def test_what_was_written_is_read_also_by_the_next_agent(cache: CompileCache, folder: Path) -> None:
    assert look(cache) == CODE
    assert look(CompileCache(folder, bytes_max=10 * SIZE)) == CODE


def test_everything_is_its_owners_alone(cache: CompileCache, folder: Path) -> None:
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


@pytest.mark.parametrize(
    ("ready", "pipeline", "kernel"),
    [
        (msgspec.structs.replace(READY, code="d" * 64), PIPELINE, KERNEL),
        (msgspec.structs.replace(READY, engines={"wasmtime": "51"}), PIPELINE, KERNEL),
        (READY, "another", KERNEL),
        (READY, PIPELINE, "another"),
    ],
    ids=["configuration", "version", "pipeline", "kernel"],
)
def test_code_for_another_purpose_is_a_miss(
    cache: CompileCache, folder: Path, ready: Ready, pipeline: str, kernel: str
) -> None:
    assert cache.read(ready, pipeline, [kernel]) == {}
    assert not was_put_aside(folder)
    # Nor does a file that takes the other's name pass for it.
    (ours,) = entries(folder)
    cache.write(ready, pipeline, {kernel: b"theirs"}, ())
    (theirs,) = set(entries(folder)) - {ours}
    theirs.replace(ours)
    assert look(cache) is None
    assert was_put_aside(folder)


def _flip(position: int) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[position] ^= 1
        path.write_bytes(data)

    return damage


def _link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


@pytest.mark.parametrize(
    "damage",
    [
        _flip(0),
        _flip(31),
        _flip(32),
        _flip(-1),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes() + b"x"),
        lambda path: path.write_bytes(b""),
        lambda path: path.chmod(0o604),
        lambda path: path.chmod(0o620),
        _link,
    ],
    ids=["mac", "mac-end", "code", "code-end", "cut", "more", "empty", "readable", "writable", "link"],
)
def test_a_file_that_is_not_as_it_was_written_is_put_aside(
    cache: CompileCache,
    folder: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
) -> None:
    assert checked(folder).health is Health.OK
    damage(entries(folder)[0])
    with caplog.at_level(logging.ERROR):
        assert look(cache) is None
    assert [getattr(record, "action", "") for record in caplog.records] == ["compiled_code_tampered"]
    assert was_put_aside(folder)
    found = checked(folder)
    assert found.health is Health.WARNING
    assert found.fix.endswith(f"rm -r {folder}")
    cache.write(READY, PIPELINE, {KERNEL: CODE}, ())
    assert look(cache) == CODE, "and it is compiled again, once"


def test_a_file_of_another_user_is_refused(
    cache: CompileCache, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(private_files.os, "getuid", lambda: os.geteuid() + 1)
        assert "another user" in what_is_wrong(folder)
        assert look(cache) is None
    assert was_put_aside(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_that_was_given_away_is_refused(cache: CompileCache, folder: Path) -> None:
    os.chown(entries(folder)[0], 65534, -1)
    assert look(cache) is None
    assert was_put_aside(folder)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: folder.chmod(0o750),
        lambda folder: (folder / "key").chmod(0o640),
        lambda folder: (folder / "key").write_bytes(bytes(31)),
        lambda folder: (folder / "key").write_bytes(bytes(33)),
    ],
    ids=["folder", "key", "short-key", "long-key"],
)
def test_a_cache_that_others_could_write_is_not_used(
    cache: CompileCache, folder: Path, caplog: pytest.LogCaptureFixture, spoil: Callable[[Path], object]
) -> None:
    spoil(folder)
    caplog.clear()
    opened = CompileCache(folder, bytes_max=10 * SIZE)
    assert getattr(caplog.records[0], "action", "") == "compile_cache_unusable"
    assert look(opened) is None
    opened.write(READY, "another", {KERNEL: CODE}, ())
    assert len(entries(folder)) == 1


@pytest.mark.parametrize("name", ["", "key"])
def test_the_doctor_sees_what_others_could_write(cache: CompileCache, folder: Path, name: str) -> None:
    (folder / name).chmod(0o770)
    found = checked(folder)
    assert found.health is Health.WARNING
    assert "other users may access" in found.says


def test_another_devices_key_reads_nothing(cache: CompileCache, folder: Path) -> None:
    (folder / "key").write_bytes(bytes(32))
    other = CompileCache(folder, bytes_max=10 * SIZE)
    assert look(other) is None
    assert was_put_aside(folder)


def test_what_was_used_longest_ago_gives_way(folder: Path) -> None:
    cache = CompileCache(folder, bytes_max=3 * SIZE)
    for number, name in enumerate("abc"):
        cache.write(READY, PIPELINE, {name: CODE}, ())
        newest = max(entries(folder), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, ns=(number, number))
    cache.read(READY, PIPELINE, "a")  # which is used now
    cache.write(READY, PIPELINE, {"d": CODE}, ())
    assert set(cache.read(READY, PIPELINE, "abcd")) == {"a", "c", "d"}
    assert sum(path.stat().st_size for path in entries(folder)) <= 3 * SIZE
    cache.write(READY, PIPELINE, {"e": CODE * 4}, ())
    assert set(cache.read(READY, PIPELINE, "abcde")) == {"a", "c", "d"}, "what never fits removes nothing"
    assert CompileCache(folder, bytes_max=SIZE).read(READY, PIPELINE, "acd").keys() < {"a", "c", "d"}
    assert CompileCache(folder, bytes_max=0).read(READY, PIPELINE, "acd") == {}


def test_code_that_is_too_large_is_not_kept(folder: Path) -> None:
    cache = CompileCache(folder, bytes_max=1 << 30)
    cache.write(READY, PIPELINE, {KERNEL: bytes(COMPILED_BYTES_MAX + 1)}, ())
    assert entries(folder) == []


def test_no_more_is_read_than_fits_one_load(folder: Path) -> None:
    cache = CompileCache(folder, bytes_max=1 << 30)
    for kernel in "abc":
        cache.write(READY, PIPELINE, {kernel: bytes(COMPILED_BYTES_MAX // 2)}, ())
    assert list(cache.read(READY, PIPELINE, "abc")) == ["a", "b"]


def test_a_write_that_fails_leaves_nothing_and_raises_nothing(
    cache: CompileCache, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    before = entries(folder)
    monkeypatch.setattr(compile_cache.os, "fsync", full)
    cache.write(READY, "another", {KERNEL: CODE}, ())
    assert entries(folder) == before


def test_code_that_the_engine_did_not_take_is_told(
    cache: CompileCache, caplog: pytest.LogCaptureFixture
) -> None:
    cache.write(READY, PIPELINE, {KERNEL: b"fresh"}, sent=[KERNEL])
    assert getattr(caplog.records[0], "action", "") == "compiled_code_refused"
    assert look(cache) == b"fresh"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("cranelift_opt_level", "none"),
        ("cranelift_nan_canonicalization", False),
        ("consume_fuel", False),
        ("epoch_interruption", False),
        ("max_wasm_stack", 256 << 10),
        ("wasm_tail_call", True),
        ("wasm_simd", False),
    ],
)
def test_every_option_of_the_engine_is_in_its_hash(option: str, value: object) -> None:
    here, other = wasm_profile.OPTIONS, {**wasm_profile.OPTIONS, option: value}
    hashes = {
        wasm_profile.engine_hash(wasm_profile.new_engine(options), stated)
        for options in (here, other)
        for stated in (here, other)
    }
    expected = 2 if option == "max_wasm_stack" else 4  # which the engine does not compare
    assert len(hashes) == expected
    assert wasm_profile.engine_hash(wasm_profile.new_engine()) in hashes


def test_the_engines_version_is_in_its_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = wasm_profile.new_engine()
    before = wasm_profile.engine_hash(engine)
    assert Module(engine, b"\0asm\1\0\0\0").serialize() == Module(engine, b"\0asm\1\0\0\0").serialize()
    monkeypatch.setattr(wasm_profile, "ENGINE_VERSION", "wasmtime/50.0.999")
    assert wasm_profile.engine_hash(engine) != before
