"""`tradepost worker doctor | service | uninstall`: the worker's installation on this device."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from tradepost.commands.options import Json
from tradepost.commands.terminal import show_json
from tradepost.errors import EXIT_CODES, Fault
from tradepost_worker.commands import doctor, service
from tradepost_worker.commands.health_checks import Health
from tradepost_worker.commands.owner import StateDir
from tradepost_worker.commands.uninstall import check_nothing_lost, check_stopped, remove_state
from tradepost_worker.settings import load_settings
from tradepost_worker.state import StateFolder


def add_device_commands(app: typer.Typer) -> None:
    """Add the commands to `tradepost worker`."""
    app.command("doctor")(examine)
    app.command()(uninstall)
    group = typer.Typer(no_args_is_help=True, help="Run the worker in the background.")
    group.command("install")(install_service)
    group.command("status")(service_status)
    group.command("uninstall")(uninstall_service)
    app.add_typer(group, name="service")


def examine(state_dir: StateDir = None, as_json: Json = False) -> None:
    """Check this device for problems that keep it from working, and print the fix for each."""
    checks = asyncio.run(doctor.examine(load_settings({"state_dir": state_dir})))
    broken = [check for check in checks if check.health is Health.BROKEN]
    if as_json:
        show_json({"healthy": not broken, "checks": checks})
    else:
        for check in checks:
            typer.echo(f"{check.health.value:<8} {check.name:<22} {check.says}")
            if check.fix:
                typer.echo(f"{'':<8} {'':<22} fix: {check.fix}")
    if broken:
        raise typer.Exit(EXIT_CODES[Fault.WORKER])


def install_service(
    state_dir: StateDir = None,
    start: Annotated[bool, typer.Option("--start/--no-start", help="Start the service now.")] = True,
    show: Annotated[
        bool, typer.Option("--show", help="Print the service file without installing it.")
    ] = False,
) -> None:
    """Run the worker in the background from now on, as this user."""
    settings = load_settings({"state_dir": state_dir})
    if not show:
        StateFolder(settings.state_dir).require()
    here = service.service_here()
    if show:
        typer.echo(here.text(settings.state_dir), nl=False)
        return
    complaint = service.install(here, settings.state_dir, start=start)
    typer.echo(f"Wrote {here.path}.")
    if complaint:
        typer.echo(f"The service could not be started: {complaint}", err=True)
        if todo := here.needs_session():
            typer.echo(todo, err=True)
    if todo := here.needs_root():
        typer.echo(f"To keep it running when you are not logged in (needs root): {todo}")
    if complaint:
        raise typer.Exit(EXIT_CODES[Fault.WORKER])


def service_status(as_json: Json = False) -> None:
    """Whether the service is installed, and runs."""
    here = service.service_here()
    is_installed = here.path.exists()
    is_running = is_installed and service.is_running(here)
    if as_json:
        show_json({"installed": is_installed, "running": is_running, "path": str(here.path)})
    elif is_installed:
        typer.echo(f"Installed ({here.path}), {'running' if is_running else 'not running'}.")
    else:
        typer.echo("Not installed. To install it: tradepost worker service install")


def uninstall_service() -> None:
    """Stop the service and remove its file; the worker's state stays."""
    here = service.service_here()
    if not here.path.exists():
        typer.echo(f"Nothing to remove: {here.path} does not exist.")
        return
    if complaint := service.remove(here):
        typer.echo(f"The service may still be running: {complaint}", err=True)
    typer.echo(f"Removed {here.path}.")


def uninstall(
    state_dir: StateDir = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    discard: Annotated[
        bool, typer.Option("--discard", help="Discard finished results that are not delivered yet.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Remove the worker from this device: its service, key, settings, cache and records."""
    settings = load_settings({"state_dir": state_dir})
    state = StateFolder(settings.state_dir)
    check_nothing_lost(state, discard=discard)
    here = _service_of(state)
    if not yes and (here is not None or state.path.exists()):
        typer.echo(
            f"This deletes the worker in {state.path} and its key: "
            "this device cannot join as the same worker again."
        )
        typer.confirm("Delete it", abort=True)
    if here is not None and (complaint := service.remove(here)):
        typer.echo(f"The service may still be running: {complaint}", err=True)
    check_stopped(state)
    removed = remove_state(state)
    paths = [*([str(here.path)] if here else []), *removed.paths]
    if as_json:
        show_json({"removed": paths, "freed_bytes": removed.freed_bytes, "left": removed.left})
        return
    if not paths:
        typer.echo(f"Nothing to remove: there is no worker in {state.path}.")
    for path in paths:
        typer.echo(f"removed  {path}")
    for path in removed.left:
        typer.echo(f"kept     {path}   (not created by the worker)")
    typer.echo(f"{removed.freed_bytes:,} bytes freed. To remove the program: pip uninstall tradepost")


def _service_of(state: StateFolder) -> service.Service | None:
    """The installed service, unless it runs another worker."""
    here = service.installed_service()
    return here if here is not None and here.is_for(state.path) else None
