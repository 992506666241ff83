"""`tradepost` commands as processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tradepost.errors import Problem, RunnerFailed, TradepostError

#: How much of a process's output an error quotes.
LOG_TAIL_CHARS: Final = 2000


def command_line(arguments: Sequence[str]) -> list[str]:
    """The command line of `tradepost` with these arguments, under this interpreter."""
    return [sys.executable, "-m", "tradepost", *arguments]


def run_command(
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    launcher: Sequence[str] = (),
) -> dict[str, Any]:
    """Run a `tradepost` command to its end; its JSON, if it has the option `--json`.

    `environment` is added to this process's own, and `launcher` is a command line that starts the command.
    Raises the error that the command failed with.
    """
    done = subprocess.run(
        [*launcher, *command_line(arguments)],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **(environment or {})},
    )
    if done.returncode != 0:
        raise _failure(arguments, done.stderr)
    return dict(json.loads(done.stdout)) if "--json" in arguments else {}


def signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Signal a process that leads a group, and the processes in it, unless it has ended."""
    if process.poll() is None:
        os.killpg(process.pid, number)


def _failure(arguments: Sequence[str], stderr: str) -> TradepostError:
    command = " ".join(arguments[:2])
    try:
        problem = Problem(**json.loads(stderr.strip().splitlines()[-1]))
    except (ValueError, TypeError, IndexError):
        return RunnerFailed(f"`tradepost {command}` failed: {stderr.strip()[-LOG_TAIL_CHARS:]}")
    return TradepostError.from_problem(problem)
