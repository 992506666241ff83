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

from tradepost.errors import NoServiceManager
from tradepost.file_writing import writing_own

NAME: Final = "tradepost-worker"
_LABEL: Final = "tradepost.worker"
_COMMAND_S_MAX: Final = 30


class Service(Protocol):
    """A service that runs the worker in the background, defined by one file at `path`."""

    path: Path

    def text(self, state_dir: Path) -> str:
        """The file's text, for the worker of a state folder."""
        ...

    def is_for(self, state_dir: Path) -> bool:
        """Whether the file that is there runs the worker of this state folder, by whichever Python."""
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

    def links(self) -> list[Path]:
        """What the service manager may have made that points to the file."""
        ...

    def needs_session(self) -> str:
        """What the owner has to do so that there is a service manager to talk to; empty if there is one."""
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

    def is_for(self, state_dir: Path) -> bool:
        """Whether the unit that is there runs the worker of this state folder, by whichever Python."""
        end = f" --state-dir {_systemd_quoted(str(state_dir))}"
        lines = self.path.read_text().splitlines()
        return any(line.startswith("ExecStart=") and line.endswith(end) for line in lines)

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

    def links(self) -> list[Path]:
        """What `enable` made. It is left behind where there is no systemd of the owner's to `disable` it."""
        return [self.path.parent / "default.target.wants" / self.path.name]

    def needs_session(self) -> str:
        """`su` and `sudo` open no session, and a container has none: then no systemd of this user runs."""
        if (_runtime_dir() / "systemd" / "private").exists():
            return ""
        return "Log in as this user (su and sudo open no session), then: tradepost worker service install"

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

    def is_for(self, state_dir: Path) -> bool:
        """Whether the agent that is there runs the worker of this state folder, by whichever Python."""
        arguments: list[str] = plistlib.loads(self.path.read_bytes())["ProgramArguments"]
        return arguments[-1] == str(state_dir)

    def start_commands(self) -> list[list[str]]:
        """What makes a new file known and starts it."""
        return [["launchctl", "bootstrap", _domain(), str(self.path)]]

    def stop_commands(self) -> list[list[str]]:
        """What stops it for good."""
        return [["launchctl", "bootout", f"{_domain()}/{_LABEL}"]]

    def status_command(self) -> list[str]:
        """What tells how it is."""
        return ["launchctl", "print", f"{_domain()}/{_LABEL}"]

    def links(self) -> list[Path]:
        """None: launchd keeps its own list."""
        return []

    def needs_session(self) -> str:
        """Nothing that could be told from here."""
        return ""

    def needs_root(self) -> str:
        """A launch agent runs in its owner's session; nothing that root could do changes that."""
        return ""


def service_here() -> Service:
    """This system's way. Raises `NoServiceManager` where there is none, or no home to keep its file in."""
    try:
        if sys.platform == "darwin":
            return LaunchdAgent()
        if shutil.which("systemctl"):
            return SystemdUnit()
    except RuntimeError:  # what pathlib says of a homeless user
        raise NoServiceManager("this user has no home folder for the service file") from None
    raise NoServiceManager("this system has neither systemd nor launchd")


def installed_service() -> Service | None:
    """The service that is installed for this user, if one is."""
    try:
        services: list[Service] = [SystemdUnit(), LaunchdAgent()]
    except RuntimeError:  # a homeless user has none
        return None
    return next((service for service in services if service.path.exists()), None)


def install(service: Service, state_dir: Path, *, start: bool) -> str:
    """Write the file, and start it; returns the complaint of the command that failed, empty if none did.

    Raises `FileNotWritten` if the file cannot be written.
    """
    with writing_own(service.path):
        service.path.parent.mkdir(parents=True, exist_ok=True)
        service.path.write_text(service.text(state_dir))
    return _run_until_failure(service.start_commands()) if start else ""


def remove(service: Service) -> str:
    """Stop it and delete its file; returns the complaint of the command that failed, empty if none did."""
    if not service.path.exists():
        return ""
    # Without a session of the owner's there is no service manager, so nothing of its runs.
    complaint = "" if service.needs_session() else _run_until_failure(service.stop_commands())
    service.path.unlink()
    for link in service.links():
        link.unlink(missing_ok=True)
    return complaint


def is_running(service: Service) -> bool:
    """Whether the service manager says that it runs."""
    return not _run_until_failure([service.status_command()])


def worker_command(state_dir: Path) -> list[str]:
    """The command line that runs the worker, with this very Python."""
    return [sys.executable, "-m", "tradepost", "worker", "run", "--state-dir", str(state_dir)]


def lingers() -> bool:
    """Whether systemd keeps this user's services when they are not logged in."""
    return Path("/var/lib/systemd/linger", user_name()).exists()


def user_name() -> str:
    """The owner's name, from the system and not from the environment; the number of one without a name."""
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _run_until_failure(commands: list[list[str]]) -> str:
    """Run them in turn; the complaint of the first that fails, after which the others make no sense."""
    # `su` does not say where the session is that linger keeps.
    environment = os.environ | {"XDG_RUNTIME_DIR": str(_runtime_dir())}
    for command in commands:
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_COMMAND_S_MAX, check=False, env=environment
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{' '.join(command)}: {error}"
        if done.returncode:
            return f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}"
    return ""


def _runtime_dir() -> Path:
    return Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}")


def _domain() -> str:
    return f"gui/{os.getuid()}"


def _systemd_quoted(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if any(character in word for character in " \t'\"\\;") else escaped
