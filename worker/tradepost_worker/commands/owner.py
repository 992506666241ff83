"""`tradepost worker pause | resume | drain | limits`: the owner's commands to a worker, running or not."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from tradepost.commands.options import Json
from tradepost.commands.terminal import show_json
from tradepost.errors import InvalidSettings, WrongMoment
from tradepost_worker.device import limits
from tradepost_worker.device.owner_command import Mode, OwnerCommand, OwnerCommandFile, parse_duration
from tradepost_worker.device.sensors import not_enforceable
from tradepost_worker.settings import FILE_NAME, load_settings, save_settings
from tradepost_worker.state import StateFolder
from tradepost_worker.wording import local_time

StateDir = Annotated[Path | None, typer.Option("--state-dir", help="The worker's state folder.")]

#: These are looked at when a worker starts; the others within a second.
_AT_START = ("cache_bytes_max", "compiled_bytes_max", "gpu_percent")


def add_owner_commands(app: typer.Typer) -> None:
    """Add the commands to `tradepost worker`."""
    app.command()(pause)
    app.command()(resume)
    app.command()(drain)
    group = typer.Typer(no_args_is_help=True, help="How much of this device the worker may use.")
    group.command("show")(show_limits)
    group.command("set")(set_limit)
    app.add_typer(group, name="limits")


def pause(
    duration: Annotated[
        str | None, typer.Option("--for", help="Duration such as 2h or 1h30m; without it, until `resume`.")
    ] = None,
    state_dir: StateDir = None,
) -> None:
    """Stop now and return running leases; reputation is unaffected. A worker started later is paused too."""
    state = _state(state_dir)
    state.require()
    until = None if duration is None else time.time() + parse_duration(duration)
    OwnerCommandFile(state.owner_command).write(OwnerCommand(mode=Mode.PAUSE, until=until))
    end = "`tradepost worker resume`" if until is None else local_time(until)
    who = "The worker is" if state.connection() else "No worker is running; the next one starts"
    typer.echo(f"{who} paused until {end}.")


def resume(state_dir: StateDir = None) -> None:
    """Work again, after `pause` or `drain`."""
    state = _state(state_dir)
    state.require()
    OwnerCommandFile(state.owner_command).clear()
    typer.echo("The worker may work again, within its limits. Show its state with: tradepost worker status")


def drain(state_dir: StateDir = None) -> None:
    """Accept no new leases, finish and deliver the running ones, and stop."""
    state = _state(state_dir)
    if state.connection() is None:
        raise WrongMoment(
            f"no worker is running with the state folder {state.path}, so there is nothing to finish"
        )
    OwnerCommandFile(state.owner_command).write(OwnerCommand(mode=Mode.DRAIN))
    typer.echo(
        "The worker finishes its running leases, then stops. Watch it with: tradepost worker status --watch"
    )


def show_limits(state_dir: StateDir = None, as_json: Json = False) -> None:
    """The limits in force, and those that this device cannot hold."""
    settings = load_settings({"state_dir": state_dir})
    lacking = not_enforceable(msgspec.structs.asdict(settings))
    found = {name: getattr(settings, name) for name in limits.names()}
    if as_json:
        show_json({"limits": found, "not_enforceable": lacking})
        return
    for name, value in found.items():
        note = f"   not enforceable here: {lacking[name]}" if name in lacking else ""
        typer.echo(f"{name:<26} {json.dumps(value):>14}{note}")


def set_limit(
    key: Annotated[str, typer.Argument(help="A limit's name, as `limits show` prints it.")],
    value: Annotated[str, typer.Argument(help="The limit's new value; hours may be empty.")],
    state_dir: StateDir = None,
) -> None:
    """Change a limit in the settings file. A running worker applies it within a second."""
    if key not in limits.names():
        raise InvalidSettings(f"{key!r} is not a limit", hint=f"Limits are: {', '.join(limits.names())}.")
    settings = load_settings({"state_dir": state_dir, key: value})  # raises before anything is written
    StateFolder(settings.state_dir).require()
    plain = getattr(settings, key)
    save_settings(settings.state_dir / FILE_NAME, {key: plain})
    if (in_force := getattr(load_settings({"state_dir": state_dir}), key)) != plain:
        raise InvalidSettings(f"the environment sets {key} to {in_force}", hint="Unset that variable.")
    when = "It takes effect when a worker starts." if key in _AT_START else ""
    typer.echo(f"{key} = {json.dumps(plain)}{when and f'   {when}'}")
    for name, reason in not_enforceable(msgspec.structs.asdict(settings)).items():
        if name.split("_")[0] == key.split("_")[0]:  # `idle_only` brings up the other idle limits
            typer.echo(f"Not enforceable here: {name}: {reason}.")


def _state(state_dir: Path | None) -> StateFolder:
    return StateFolder(load_settings({"state_dir": state_dir}).state_dir)
