"""Runs the worker in the background whenever its owner is logged in, or always with linger: a systemd user
unit on Linux, a launchd agent on macOS. Nothing here needs root; what does is printed.

Both stop the worker with SIGTERM, upon which it gives back what it runs, and start it again if it crashed,
but not if it ended on purpose (`drain`).
"""

from __future__ import annotations

import os
import plistlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final, Protocol

from tradepost.errors import InvalidSettings

NAME: Final = "tradepost-worker"
_LABEL: Final = "tradepost.worker"
_COMMAND_S_MAX: Final = 30


class Service(Protocol):
    """A way to run the worker in the background, described by one file at `path`."""

    path: Path

    def text(self, state_dir: Path) -> str:
        """The file's text, for the worker of a state folder."""
        ...

    def start_commands(self) -> list[list[str]]:
        """What makes a new file known and starts it."""
        ...

    def stop_commands(self) -> list[list[str]]:
        """What stops it for good."""
        ...

    def status_command(self) -> list[str]:
        """What tells how it is; its status is 0 if it runs."""
        ...

    def needs_root(self) -> str:
        """What the owner has to do as root so that it runs without a login; empty if nothing."""
        ...


class SystemdUnit:
    """A unit of the owner's systemd."""

    def __init__(self, home: Path | None = None) -> None:
        configured = os.environ.get("XDG_CONFIG_HOME") if home is None else None
        base = Path(configured) if configured else (home or Path.home()) / ".config"
        self.path = base / "systemd" / "user" / f"{NAME}.service"

    def text(self, state_dir: Path) -> str:
        """The unit file."""
        command = " ".join(_systemd_quoted(word) for word in worker_command(state_dir))
        return f"""\
[Unit]
Description=Tradepost worker: lends this device to a market

[Service]
ExecStart={command}
Restart=on-failure
RestartSec=10
TimeoutStopSec=15
KillMode=mixed
UMask=0077
NoNewPrivileges=yes
Delegate=memory pids

[Install]
WantedBy=default.target
"""

    def start_commands(self) -> list[list[str]]:
        """What makes a new file known and starts it."""
        control = ["systemctl", "--user"]
        return [
            [*control, "daemon-reload"],
            [*control, "enable", f"{NAME}.service"],
            [*control, "restart", NAME],
        ]

    def stop_commands(self) -> list[list[str]]:
        """What stops it for good."""
        return [["systemctl", "--user", "disable", "--now", f"{NAME}.service"]]

    def status_command(self) -> list[str]:
        """What tells how it is."""
        return ["systemctl", "--user", "is-active", f"{NAME}.service"]

    def needs_root(self) -> str:
        """Linger keeps an owner's services running when they are not logged in."""
        return "" if lingers() else f"sudo loginctl enable-linger {user_name()}"


class LaunchdAgent:
    """A launch agent of the owner's macOS session."""

    def __init__(self, home: Path | None = None) -> None:
        self.path = (home or Path.home()) / "Library" / "LaunchAgents" / f"{_LABEL}.plist"

    def text(self, state_dir: Path) -> str:
        """The property list."""
        facts = {
            "Label": _LABEL,
            "ProgramArguments": worker_command(state_dir),
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
            "ProcessType": "Background",
            "Umask": 0o077,
            "StandardErrorPath": str(state_dir / "worker.log"),
        }
        return plistlib.dumps(facts).decode()

    def start_commands(self) -> list[list[str]]:
        """What makes a new file known and starts it."""
        return [["launchctl", "bootstrap", _domain(), str(self.path)]]

    def stop_commands(self) -> list[list[str]]:
        """What stops it for good."""
        return [["launchctl", "bootout", f"{_domain()}/{_LABEL}"]]

    def status_command(self) -> list[str]:
        """What tells how it is."""
        return ["launchctl", "print", f"{_domain()}/{_LABEL}"]

    def needs_root(self) -> str:
        """A launch agent runs in its owner's session; nothing that root could do changes that."""
        return ""


def service_here() -> Service:
    """This system's way. Raises `InvalidSettings` where there is none."""
    if sys.platform == "darwin":
        return LaunchdAgent()
    if shutil.which("systemctl"):
        return SystemdUnit()
    raise InvalidSettings(
        "this system has neither systemd nor launchd", hint="Start `tradepost worker run` by other means."
    )


def installed_service() -> Service | None:
    """The service that is installed for this user, if one is."""
    services: list[Service] = [SystemdUnit(), LaunchdAgent()]
    return next((service for service in services if service.path.exists()), None)


def install(service: Service, state_dir: Path, *, start: bool) -> list[str]:
    """Write the file, and start it; returns the complaints of commands that failed."""
    service.path.parent.mkdir(parents=True, exist_ok=True)
    service.path.write_text(service.text(state_dir))
    return _run_all(service.start_commands()) if start else []


def remove(service: Service) -> list[str]:
    """Stop it and delete its file; returns the complaints of commands that failed."""
    if not service.path.exists():
        return []
    complaints = _run_all(service.stop_commands())
    service.path.unlink()
    return complaints


def worker_command(state_dir: Path) -> list[str]:
    """The command line that runs the worker, with this very Python."""
    return [sys.executable, "-m", "tradepost", "worker", "run", "--state-dir", str(state_dir)]


def lingers() -> bool:
    """Whether systemd keeps this user's services when they are not logged in."""
    return Path("/var/lib/systemd/linger", user_name()).exists()


def user_name() -> str:
    """The owner's name, from the system and not from the environment."""
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name


def _run_all(commands: list[list[str]]) -> list[str]:
    complaints = []
    for command in commands:
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_COMMAND_S_MAX, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            complaints.append(f"{' '.join(command)}: {error}")
            continue
        if done.returncode:
            complaints.append(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
    return complaints


def _domain() -> str:
    return f"gui/{os.getuid()}"


def _systemd_quoted(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if any(character in word for character in " \t'\"\\;") else escaped
