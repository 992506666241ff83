"""A bare Debian joins a market: Python and nothing else, an empty home, and the documents' own commands.

Debian's own tool makes the root; the broker runs outside, on loopback. /proc and /dev are mounted for each
command in a mount namespace of its own, which ends with the command, however that ends: nothing is left
mounted here. /sys is not mounted, and there is neither systemd nor a session. Packages come from this
machine's apt mirror and Python index.
"""

from __future__ import annotations

import asyncio
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import pytest

from tradepost import Client
from tradepost.pipeline.tensors import decode
from tradepost.testing import LocalMarket
from tradepost_worker.supervision.runner_process import RunnerProcess

pytestmark = [pytest.mark.acceptance, pytest.mark.long]

REPOSITORY = Path(__file__).parents[2]
GUIDE = REPOSITORY / "docs" / "worker.md"
README = REPOSITORY / "README.md"
DATA = files("tradepost.demo") / "data"
USER = "ada"
COMMAND_S_MAX = 300
#: The guide's command that enters the environment that the program is in.
ENTER = ". tradepost"
NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
#: Run by a shell whose first argument is the root, and the others what to run in it.
MOUNT = 'set -e; mount -t proc proc "$1/proc"; mount --rbind /dev "$1/dev"; shift; exec "$@"'


def what_is_missing() -> str:
    """Why no root can be made here; empty if it can."""
    if sys.platform != "linux" or platform.freedesktop_os_release().get("ID") != "debian":
        return "this is not Debian, whose tool and mirror make the root"
    if os.geteuid() != 0:
        return "it takes root to make a root"
    if absent := [one for one in ("debootstrap", "unshare", "chroot") if shutil.which(one) is None]:
        return f"not installed: {', '.join(absent)}"
    tried = subprocess.run([*NAMESPACES, "true"], capture_output=True, check=False)
    return "" if tried.returncode == 0 else f"no namespaces here: {tried.stderr.decode().strip()}"


@dataclass(frozen=True)
class BareRoot:
    """A Debian in a folder, with one user."""

    path: Path
    environment: dict[str, str]

    @property
    def home(self) -> Path:
        """The user's home, seen from outside."""
        return self.path / "home" / USER

    def command(self, script: str, *, user: str = USER, **changes: str) -> list[str]:
        """What runs a shell script in there, as this user, in this environment and no other."""
        variables = {"PATH": "/usr/bin:/bin", "HOME": f"/home/{USER}", **self.environment, **changes}
        environment = [f"{name}={value}" for name, value in variables.items() if value]
        inside = ["chroot", f"--userspec={user}", str(self.path), "env", "-i", *environment]
        shell = ["sh", "-ec", f"cd $HOME\n{script}"]
        return [*NAMESPACES, "sh", "-c", MOUNT, "sh", str(self.path), *inside, *shell]

    def run(self, script: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """Run a script to its end; who is asked anything says yes."""
        command = self.command(script, **changes)
        return subprocess.run(
            command, capture_output=True, text=True, input="y\n", timeout=COMMAND_S_MAX, check=False
        )

    @contextmanager
    def running(self, script: str) -> Iterator[subprocess.Popen[str]]:
        """A script as in a terminal, its last line in place of the shell; killed at the end."""
        *lines, last = script.splitlines()
        command = self.command("\n".join([*lines, f"exec {last}"]))
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        ) as process:
            watchdog = threading.Timer(COMMAND_S_MAX, process.kill)
            watchdog.start()
            try:
                yield process
            finally:
                watchdog.cancel()
                process.kill()


class Owner:
    """The user in there, who types what a document shows, with other values in place of its examples."""

    def __init__(self, root: BareRoot, document: Path, examples: Mapping[str, str] | None = None) -> None:
        text = document.read_text(encoding="utf-8")
        self._root = root
        self._shown = re.findall(r"^    (\S.*)$|^\| `(tradepost [^`]+)`", text, re.MULTILINE)
        self._examples = examples or {}

    def script(self, *beginnings: str) -> str:
        """The documented commands that begin so, one after the other, in the program's environment."""
        lines = []
        for beginning in beginnings:
            (line,) = {one or other for one, other in self._shown if (one or other).startswith(beginning)}
            for example, value in self._examples.items():
                line = line.replace(example, value)
            lines.append(line)
        return "\n".join(lines)

    def does(self, *beginnings: str) -> str:
        """What these commands print."""
        done = self._root.run(self.script(*beginnings))
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def ask_until(root: BareRoot, script: str, text: str) -> None:
    """Run the script until it prints the text: what a running worker shows of itself may be a second old."""
    until_s = time.monotonic() + COMMAND_S_MAX
    while text not in (said := root.run(script)).stdout:
        assert time.monotonic() < until_s, f"never {text!r}, at last:\n{said.stdout}{said.stderr}"


def mirror_and_suite() -> tuple[str, str]:
    """Where this machine's Debian comes from, as apt is configured."""
    suite = platform.freedesktop_os_release()["VERSION_CODENAME"]
    form = "$(REPO_URI) $(RELEASE) $(COMPONENT)"
    command = ["apt-get", "indextargets", "--no-release-info", "--format", form, "Created-By: Packages"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    places = [line.split() for line in listed.stdout.splitlines()]
    return next(place[0] for place in places if place[1:] == [suite, "main"]), suite


def give_the_index(root: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Let pip in there find what the caller's pip finds; its environment variables."""
    variables = {
        name: value for name, value in environment.items() if re.match(r"PIP_|(https?|no)_proxy$", name, re.I)
    }
    home = Path(environment.get("HOME", "/"))
    homes = (Path("/etc/pip.conf"), home / ".pip/pip.conf", home / ".config/pip/pip.conf")
    for found in filter(Path.exists, homes):
        shutil.copy(found, root / "etc" / "pip.conf")
    authorities = Path("/etc/ssl/certs/ca-certificates.crt")  # a proxy's among them
    if authorities.exists():
        shutil.copy(authorities, root / authorities.relative_to("/"))
    return variables


@pytest.fixture(scope="module")
def root(
    wheel: Path, tmp_path_factory: pytest.TempPathFactory, callers_environment: Mapping[str, str]
) -> Iterator[BareRoot]:
    if missing := what_is_missing():
        pytest.skip(missing)
    path = tmp_path_factory.mktemp("debian")
    try:
        begun_s = time.monotonic()
        mirror, suite = mirror_and_suite()
        make = ["debootstrap", "--variant=minbase", "--include=python3,python3-venv"]
        command = [*NAMESPACES, *make, suite, str(path), mirror]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stdout[-2000:] + made.stderr
        path.chmod(0o755)  # a root that its users may enter, unlike a temporary folder
        subprocess.run(["chroot", str(path), "useradd", "--create-home", USER], check=True)
        given = path / "opt" / "tradepost"
        given.mkdir()
        shutil.copy(wheel, given)
        shutil.copy(REPOSITORY / "constraints.txt", given)
        environment = give_the_index(path, callers_environment) | {
            "PIP_FIND_LINKS": "/opt/tradepost",
            "PIP_CONSTRAINT": "/opt/tradepost/constraints.txt",
        }
        print(f"a bare {suite} after {time.monotonic() - begun_s:.0f} s")
        yield BareRoot(path, environment)
    finally:
        assert str(path) not in Path("/proc/self/mounts").read_text()
        shutil.rmtree(path)


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMarket]:
    with LocalMarket(workers=0, folder=tmp_path_factory.mktemp("market")) as market:
        yield market


def new_token(market: LocalMarket) -> str:
    data = ["--data-dir", str(market.folder_in_use / "broker")]
    return str(market.run(["broker", "token", *data, "--owner", USER, "--json"])["token"])


def read_until(worker: subprocess.Popen[str], text: str) -> str:
    """What it prints until it has said this."""
    said = ""
    assert worker.stdout is not None
    for line in worker.stdout:
        said += line
        if text in line:
            return said
    raise AssertionError(f"it never said {text!r}:\n{said}")


def classify(market: LocalMarket, pipeline: str, count: int) -> list[float]:
    """Have digits classified by the one worker there is; how long each took, in seconds."""
    held_out = decode((DATA / "held_out.safetensors").read_bytes())
    seconds = []
    with Client(market.url, api_key=market.api_key) as client:
        for image, expected in zip(held_out["images"][:count], held_out["predicted"], strict=False):
            begun_s = time.monotonic()
            job = client.submit(pipeline, {"image": image}, max_price="0.05", confidence=0.7)
            assert int(job.result(timeout=60)["index"].flat[0]) == expected
            seconds.append(time.monotonic() - begun_s)
    return seconds


async def isolation_here() -> str:
    """What a runner achieves outside the root, under the same kernel."""
    runner = await RunnerProcess.start()
    await runner.close()
    return ", ".join(runner.ready.isolation.achieved)


def test_a_bare_debian_joins_works_and_is_left_as_it_was(root: BareRoot, market: LocalMarket) -> None:
    pipeline = market.publish(Path(str(DATA / "pipeline.toml")))
    for name in ("alice.pub", "publisher.pub"):
        shutil.copy(market.folder_in_use / "publisher.key.pub", root.home / name)
    before = set(root.home.rglob("*"))

    follow_the_guide(root, market, pipeline)
    follow_the_readme(root, market, pipeline)
    try_odd_users(root)

    data = ["--data-dir", str(market.folder_in_use / "broker")]
    assert market.run(["broker", "verify-books", *data, "--json"])["differences"] == []
    Owner(root, GUIDE).does("rm -r tradepost")
    # The places that all programs share stay, empty; what pip keeps is pip's.
    pips = root.home / ".cache" / "pip"
    left = {path for path in root.home.rglob("*") if pips not in (path, *path.parents)} - before
    assert left <= {root.home / shared for shared in (".cache", ".local", ".local/share")}


def follow_the_guide(root: BareRoot, market: LocalMarket, pipeline: str) -> None:
    """Install, join, work, look, pause, drain and uninstall, as docs/worker.md says."""
    ada = Owner(root, GUIDE, {"https://broker.example": market.url, "TOKEN": new_token(market)})
    begun_s = time.monotonic()
    ada.does("python3 -m venv", ENTER, "pip install")
    installed_s = time.monotonic()
    join = ada.script(ENTER, "tradepost worker trust add alice", "tradepost worker join https")
    with root.running(join) as worker:
        facts = read_until(worker, "Connected to")
        joined_s = time.monotonic()
        latencies = classify(market, pipeline, 5)
        print(f"installed in {installed_s - begun_s:.1f} s, joined in {joined_s - installed_s:.1f} s")
        print(f"first job in {latencies[0]:.2f} s, fifth in {latencies[-1]:.2f} s")

        achieved = asyncio.run(isolation_here())
        assert f"isolation  {achieved}\n" in facts
        for fact in ("worker     ", "million fuel/s", "GFLOP/s", "limits     cpu_percent 100"):
            assert fact in facts
        for fact in ("earnings   no data yet", "stop       Ctrl-C", "uninstall  tradepost worker uninstall"):
            assert fact in facts
        assert f"isolation              {achieved}\n" in ada.does(ENTER, "tradepost worker doctor")
        ask_until(root, ada.script(ENTER, "tradepost worker status"), "5 leases in the last hour")
        ask_until(root, ada.script(ENTER, "tradepost worker earnings"), "5 of 5 leases paid")
        ada.does(ENTER, "tradepost worker limits set cpu_percent 25")
        assert re.search(r"cpu_percent +25\n", ada.does(ENTER, "tradepost worker limits show"))
        ada.does(ENTER, "tradepost worker pause")
        read_until(worker, "Paused: the owner paused the worker")
        ask_until(root, ada.script(ENTER, "tradepost worker status"), "Paused: the owner paused the worker")
        ada.does(ENTER, "tradepost worker resume")
        read_until(worker, "Accepting leases again")
        classify(market, pipeline, 1)
        ada.does(ENTER, "tradepost worker drain")
        assert worker.wait(COMMAND_S_MAX) == 0

    removed = ada.does(ENTER, "tradepost worker uninstall")
    assert f"/home/{USER}/.local/share/tradepost/worker/worker.key" in removed
    assert "left  " not in removed


def follow_the_readme(root: BareRoot, market: LocalMarket, pipeline: str) -> None:
    """Join again, as a new device, as the README says; Ctrl-C ends it."""
    ada = Owner(root, README, {"http://127.0.0.1:8700": market.url, "TOKEN": new_token(market)})
    enter = Owner(root, GUIDE).script(ENTER)
    trust, join = ada.script("tradepost worker trust add"), ada.script("tradepost worker join")
    with root.running("\n".join((enter, trust, join))) as worker:
        facts = read_until(worker, "Connected to")
        assert "credits per lease, from the newest 6 paid leases" in facts
        classify(market, pipeline, 2)
        status = "\n".join((enter, ada.script("tradepost worker status")))
        ask_until(root, status, "2 leases in the last hour")
        os.killpg(worker.pid, signal.SIGINT)  # what a terminal sends to its foreground
        assert worker.wait(COMMAND_S_MAX) == 0
    Owner(root, GUIDE).does(ENTER, "tradepost worker uninstall")


def try_odd_users(root: BareRoot) -> None:
    """Where there is no home, no name for the user, no locale or no service manager, it says so or works."""
    worker = f"/home/{USER}/tradepost/bin/tradepost worker"
    nobody = {"user": "4321:4321", "HOME": ""}

    assert root.run(f"{worker} status", HOME="", LC_ALL="C").stdout.startswith("Not joined")
    assert root.run(f"{worker} status", LC_ALL="POSIX").stdout.startswith("Not joined")
    assert "no home folder" in root.run(f"{worker} status", **nobody).stderr
    homeless = root.run(f"{worker} doctor --state-dir /tmp/worker", **nobody)
    assert (homeless.returncode, homeless.stderr) == (0, "")
    unwritable = root.run(f"{worker} pause --state-dir /worker", **nobody)
    assert "/worker does not exist" in unwritable.stderr
    assert "tradepost worker join" in root.run(f"{worker} service install").stderr
