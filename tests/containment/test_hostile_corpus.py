"""Every hostile case and the hunt for the secret, as `make containment` runs them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tradepost_worker.testing.hostile import hunt
from tradepost_worker.testing.hostile.cases import RETURNED, TRAP, wasm_case
from tradepost_worker.testing.hostile.models import onnx_cases
from tradepost_worker.testing.hostile.module_builders import LOOP, reactor
from tradepost_worker.testing.hostile.modules import wasm_cases
from tradepost_worker.testing.hostile.takeover import take_over
from tradepost_worker.testing.hostile.trial import attempt


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="the figures are about Linux's layers")
def test_everything_is_contained():
    done = subprocess.run(
        [sys.executable, "-m", "tradepost_worker.testing.hostile", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr
    figures = json.loads(done.stdout)
    assert figures["breaches"] == []
    assert done.returncode == 0
    assert figures["wasm_cases"] >= 60
    assert figures["onnx_cases"] >= 40
    assert figures["contained"] == figures["wasm_cases"] + figures["onnx_cases"]
    assert {"no_new_privs", "rlimits", "landlock", "seccomp"} <= set(figures["isolation"])
    assert {"file", "key", "environment", "listener"} <= set(figures["control"])


def test_every_case_has_a_name_of_its_own():
    names = [case.name for case in (*wasm_cases(), *onnx_cases())]
    assert len(names) == len(set(names))


async def test_a_case_that_is_not_contained_is_a_breach():
    harmless = await attempt(wasm_case("harmless", reactor, TRAP))
    assert [breach for breach in harmless.breaches() if "returned" in breach]
    late = await attempt(
        wasm_case("late", lambda: reactor(f"{LOOP} unreachable"), RETURNED, wall_s=0.01, fuel=1 << 52)
    )
    assert any("lease-timeout" in breach for breach in late.breaches())


async def test_a_hunt_that_would_notice_nothing_is_broken(monkeypatch):
    async def find_nothing(codes):
        return dict.fromkeys(codes, "refused: OSError: it is not there")

    monkeypatch.setattr(hunt, "run_unlocked", find_nothing)
    caught = await hunt.hunt()
    assert caught.found == ()
    assert caught.control == ()
    assert caught.missed == ("environment", "file", "key", "listener")


async def test_an_attempt_that_fails_by_itself_was_not_refused():
    slips = {"a wrong name": "found = undefined", "a wrong argument": "found = os.read(-1, 1)"}
    found = await take_over(slips, secret="planted")
    assert [text.split(":")[0] for text in found] == list(slips)
    assert await take_over({"a file": "found = open('/etc/passwd').read()"}, secret="planted") == []
