"""A whole market on this machine: broker, workers and publisher as the separate processes that users run.

The demo, the examples and the acceptance tests stand on it. Everything goes through the `tradepost` command,
listens on loopback, keeps its state in one folder, and ends with the context manager.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, cast
from urllib.request import ProxyHandler, build_opener

from tradepost.errors import BrokerUnavailable, RunnerFailed
from tradepost.plurals import counted
from tradepost.testing.commands import LOG_TAIL_CHARS, command_line, run_command, signal_group
from tradepost.testing.held_port import HeldPort

#: A process that ends is noticed at once; one that starts may share its machine with many others.
START_S_MAX: Final = 180.0
_STOP_S_MAX: Final = 10.0
_ANSWER_S_MAX: Final = 180.0
_POLL_S: Final = 0.02


@dataclass(frozen=True, kw_only=True)
class WorkerPlan:
    """A worker to start: its device name, owner, price in credits per work unit and stake in credits.

    `module` is what runs in place of the `tradepost worker` command, for a worker that cheats. `launcher` is
    the command line that starts the device's commands, such as `("env", "NAME=VALUE")`; it must not fork.
    """

    name: str
    owner: str
    price: str
    stake: str = "10"
    capacity: int = 1
    auditor: bool = False
    module: str | None = None
    launcher: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class RunningWorker:
    """A worker that joined: its plan, its id and its process."""

    plan: WorkerPlan
    id: str
    process: subprocess.Popen[bytes]


@dataclass(kw_only=True)
class LocalMarket:
    """A market with these workers, or so many honest ones of an owner each: three newcomers reach 0.98.

    With `folder` the state is kept there; else it is temporary. `on_step` is told what happens, in words.
    """

    workers: Sequence[WorkerPlan] | int = 3
    credits: str = "1000"
    folder: Path | None = None
    broker_options: Sequence[str] = ()
    on_step: Callable[[str], None] = lambda _: None
    running: list[RunningWorker] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._temporary = self.folder is None
        self._home = self.folder or Path(tempfile.mkdtemp(prefix="tradepost-"))
        self._processes: list[subprocess.Popen[bytes]] = []
        self.url = ""
        self.api_key = ""
        self.port = 0
        self._held_port: HeldPort | None = None

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def publish(self, pipeline_toml: Path, *, key: Path | None = None) -> str:
        """Validate, sign (with the key that the workers trust, or another) and upload a pipeline; its CID."""
        published = self.run(
            ["publish", str(pipeline_toml), "--key", str(key or self._key), "--broker", self.url, "--json"],
            environment={"TRADEPOST_API_KEY": self.api_key},
        )
        return str(published["pipeline"])

    def start_broker(self) -> None:
        """Start the broker, on the same port as before if it ran already, and wait until it answers."""
        port_file = self._home / "broker.port"
        port_file.unlink(missing_ok=True)
        options = ["--host", "127.0.0.1", "--port", str(self.port), "--port-file", str(port_file)]
        command = ["broker", "run", *self._data, *options, *self.broker_options]
        self.broker = self._spawn("broker", command_line(command))
        self._wait(port_file.exists, self.broker, "broker")
        self.port = int(port_file.read_text())
        self.url = f"http://127.0.0.1:{self.port}"

    def kill_broker(self) -> None:
        """End the broker with SIGKILL, as a power cut would."""
        self._end(self.broker, signal.SIGKILL)

    def stop_broker(self) -> int:
        """End the broker with SIGTERM, as its operator would; its exit status."""
        return self._end(self.broker, signal.SIGTERM)

    def start_worker(self, plan: WorkerPlan) -> RunningWorker:
        """Join a worker with a fresh token and start it; it trusts the market's publisher."""
        token = ["broker", "token", *self._data, "--owner", plan.owner, "--stake", plan.stake, "--json"]
        issued = self.run([*token, "--auditor"] if plan.auditor else token)
        state = self.state_dir(plan)
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.copy(self._home / "owner" / "trust.toml", state)
        # The market is the owner's own, and so is the machine: nothing here has to give way to anybody.
        (state / "worker.toml").write_text("nice = 0\nmains_only = false\n")
        joining = ["worker", "join", self.url, "--token", str(issued["token"]), "--name", plan.name]
        joining += ["--state-dir", str(state), "--no-run", "--no-measure", "--json"]
        joined = self.run(joining, launcher=plan.launcher)
        command = ["run", "--state-dir", str(state), "--price", plan.price, "--capacity", str(plan.capacity)]
        if plan.module is None:
            arguments = command_line(["worker", *command])
        else:
            arguments = [sys.executable, "-m", plan.module, *command]
        process = self._spawn(f"worker-{plan.name}", [*plan.launcher, *arguments])
        worker = RunningWorker(plan=plan, id=str(joined["worker"]), process=process)
        self.running.append(worker)
        return worker

    def kill_worker(self, worker: RunningWorker) -> None:
        """End a worker and its runners with SIGKILL, as a power cut would."""
        self._end(worker.process, signal.SIGKILL)

    def stop_worker(self, worker: RunningWorker) -> int:
        """End a worker with SIGTERM, as its owner would; its exit status."""
        return self._end(worker.process, signal.SIGTERM)

    def resume_worker(self, worker: RunningWorker) -> RunningWorker:
        """Start a worker that has ended again, with the state and the options that it had."""
        command = [str(part) for part in cast("list[str]", worker.process.args)]
        resumed = replace(worker, process=self._spawn(f"worker-{worker.plan.name}", command))
        self.running[self.running.index(worker)] = resumed
        return resumed

    def start_copy(self, worker: RunningWorker, state: Path) -> RunningWorker:
        """Start a worker with a copy of another one's state folder: a second device with the same key."""
        plan = replace(worker.plan, name=state.name)
        command = [str(part) for part in cast("list[str]", worker.process.args)]
        command[command.index("--state-dir") + 1] = str(state)
        return RunningWorker(plan=plan, id=worker.id, process=self._spawn(f"worker-{plan.name}", command))

    def wait_for_workers(self, workers: Sequence[RunningWorker] | None = None) -> None:
        """Wait until these workers, or all, are connected, so that their offers stand."""
        for worker in self.running if workers is None else workers:
            self._wait(partial(self._is_connected, worker), worker.process, f"worker-{worker.plan.name}")

    def wait_until(self, ready: Callable[[], bool], worker: RunningWorker) -> None:
        """Wait until `ready()`.

        Raises `BrokerUnavailable`, with the end of the log, if the worker ends before or it takes too long.
        """
        self._wait(ready, worker.process, f"worker-{worker.plan.name}")

    def view(self, worker: RunningWorker) -> dict[str, Any]:
        """What the broker shows everyone of a worker."""
        direct = build_opener(ProxyHandler({}))  # it is on loopback, whatever proxy the environment names
        with direct.open(f"{self.url}/v1/workers/{worker.id}", timeout=_ANSWER_S_MAX) as response:
            return dict(json.load(response))

    def run(
        self,
        arguments: list[str],
        *,
        environment: dict[str, str] | None = None,
        launcher: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Run a `tradepost` command to its end; its JSON, if it printed any. Raises what it failed with."""
        return run_command(arguments, environment=environment, launcher=launcher)

    def status(self, worker: RunningWorker) -> dict[str, Any]:
        """What `tradepost worker status` shows the owner on the worker's device."""
        command = ["worker", "status", "--state-dir", str(self.state_dir(worker.plan)), "--json"]
        return self.run(command, launcher=worker.plan.launcher)

    def log(self, worker: RunningWorker) -> str:
        """What the worker has logged so far."""
        return self._log_file(f"worker-{worker.plan.name}").read_text(errors="replace")

    def state_dir(self, plan: WorkerPlan) -> Path:
        """The state folder of a worker's device."""
        return self._home / "workers" / plan.name

    def close(self) -> None:
        """End every process, workers first, and remove the state if it was temporary."""
        for process in reversed(self._processes):
            signal_group(process, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_S_MAX
        for process in reversed(self._processes):
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                signal_group(process, signal.SIGKILL)
                process.wait()
        self._processes.clear()
        if self._held_port is not None:
            self._held_port.close()
        if self._temporary:
            shutil.rmtree(self._home, ignore_errors=True)

    @property
    def folder_in_use(self) -> Path:
        """Where the state and the logs are."""
        return self._home

    @property
    def _data(self) -> list[str]:
        return ["--data-dir", str(self._home / "broker")]

    @property
    def _key(self) -> Path:
        return self._home / "publisher.key"

    def _start(self) -> None:
        self.on_step("Starting the broker")
        self._held_port = HeldPort()
        self.port = self._held_port.number
        self._home.mkdir(parents=True, exist_ok=True)
        self.run(["keygen", "--out", str(self._key), "--no-passphrase", "--json"])
        self.start_broker()
        account = ["broker", "account", "create", "demo", *self._data, "--credits", self.credits, "--json"]
        self.api_key = str(self.run(account)["api_key"])
        # Every owner here trusts the same publisher, so one trust policy is made, and copied to each.
        owner = str(self._home / "owner")
        self.run(["worker", "trust", "add", "demo-publisher", f"{self._key}.pub", "--state-dir", owner])
        plans = self.workers
        if isinstance(plans, int):
            plans = [
                WorkerPlan(name=f"worker-{n}", owner=f"owner-{n}", price=f"0.00{n}")
                for n in range(1, plans + 1)
            ]
        self.on_step(f"Joining {counted(len(plans), 'worker')}")
        with ThreadPoolExecutor(max_workers=4) as pool:
            list(pool.map(self.start_worker, plans))
        self.wait_for_workers()

    def _is_connected(self, worker: RunningWorker) -> bool:
        return bool(self.view(worker)["connected"])

    def _spawn(self, name: str, arguments: list[str]) -> subprocess.Popen[bytes]:
        path = self._log_file(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as log:
            process = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._processes.append(process)
        return process

    def _log_file(self, name: str) -> Path:
        return self._home / "logs" / f"{name}.log"

    def _end(self, process: subprocess.Popen[bytes], number: signal.Signals) -> int:
        if process.poll() is not None:
            raise RunnerFailed(f"process {process.pid} had already ended, with status {process.returncode}")
        signal_group(process, number)
        status = process.wait()
        self._processes.remove(process)
        return status

    def _wait(self, ready: Callable[[], bool], process: subprocess.Popen[bytes], name: str) -> None:
        deadline = time.monotonic() + START_S_MAX
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                log = self._log_file(name).read_text(errors="replace")
                state = (
                    f"ended with {process.returncode}" if process.returncode is not None else "is not ready"
                )
                raise BrokerUnavailable(f"{name} {state}:\n{log[-LOG_TAIL_CHARS:]}")
            time.sleep(_POLL_S)
