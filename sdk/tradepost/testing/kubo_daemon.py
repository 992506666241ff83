"""A real Kubo daemon for tests and benchmarks: on loopback, on free ports, alone, with its own repository."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tradepost.errors import KuboFailed

START_S_MAX: Final = 180.0
_STOP_S_MAX: Final = 20.0
#: Nobody is asked and nobody is told: no peers, no routing, no names, no telemetry.
_CONFIG: Final = {
    "Addresses.API": "/ip4/127.0.0.1/tcp/0",
    "Addresses.Gateway": "/ip4/127.0.0.1/tcp/0",
    "Addresses.Swarm": [],
    "AutoConf.Enabled": False,
    "AutoTLS.Enabled": False,
    "Bootstrap": [],
    "DNS.Resolvers": {},
    "Discovery.MDNS.Enabled": False,
    "Ipns.DelegatedPublishers": [],
    "Provide.Enabled": False,
    "Routing.DelegatedRouters": [],
    "Routing.Type": "none",
}


def find_ipfs() -> Path | None:
    """The `ipfs` program: `TRADEPOST_IPFS`, or what is on the path, if anything."""
    found = os.environ.get("TRADEPOST_IPFS") or shutil.which("ipfs")
    return Path(found) if found else None


class KuboDaemon:
    """Runs `ipfs daemon --offline` while open, with a repository made in `folder`, which is empty or new.

    `api` is the multiaddr of its RPC API, `gateway` the URL of its gateway.
    """

    def __init__(self, ipfs: Path, folder: Path) -> None:
        self.api = ""
        self.gateway = ""
        self._ipfs = ipfs
        self._folder = folder
        self._daemon: subprocess.Popen[str] | None = None

    def run(self, *arguments: str, stdin: bytes | None = None) -> bytes:
        """What `ipfs` with these arguments writes to stdout. Raises `KuboFailed`."""
        done = subprocess.run(
            [self._ipfs, *arguments], input=stdin, capture_output=True, check=False, env=self._environment()
        )
        if done.returncode != 0:
            raise KuboFailed(f"ipfs {arguments[0]}: {done.stderr.decode(errors='replace')[-1000:]}")
        return done.stdout

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """`ipfs` with these arguments, its stdout a pipe."""
        return subprocess.Popen(
            [self._ipfs, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=self._environment(),
        )

    def init(self) -> None:
        """Make the repository; `run` then works on it without a daemon."""
        self.run("init", "--empty-repo")
        for key, value in _CONFIG.items():
            self.run("config", "--json", key, json.dumps(value))

    def __enter__(self) -> Self:
        self.init()
        self._daemon = subprocess.Popen(
            [self._ipfs, "daemon", "--offline"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self._environment(),
        )
        self._wait_until_ready(self._daemon)
        self.api = (self._folder / "api").read_text().strip()
        self.gateway = (self._folder / "gateway").read_text().strip()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._daemon is not None:
            self._daemon.terminate()
            try:
                self._daemon.communicate(timeout=_STOP_S_MAX)
            except subprocess.TimeoutExpired:
                self._daemon.kill()
                self._daemon.communicate()

    def _wait_until_ready(self, daemon: subprocess.Popen[str]) -> None:
        said: list[str] = []
        patience = threading.Timer(START_S_MAX, daemon.kill)
        patience.start()
        try:
            for line in daemon.stdout or ():
                said.append(line)
                if "Daemon is ready" in line:
                    return
        finally:
            patience.cancel()
        daemon.communicate()
        raise KuboFailed(f"the daemon ended with {daemon.returncode}: {''.join(said)[-2000:]}")

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "IPFS_PATH": str(self._folder),
            "IPFS_TELEMETRY": "off",
            "GOLOG_LOG_LEVEL": "error",
        }
