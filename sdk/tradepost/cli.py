"""`tradepost`, the command: its subcommands come from entry points and load when they are used.

An entry point in the group `tradepost.commands` is a Typer app or a plain function. Every error that is
raised on purpose ends here: its diagnostics go to stderr (as JSON where `--json` was given), and its fault
decides the exit code.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import EntryPoint, entry_points, version
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup
from typer.main import get_command

from tradepost.commands.standard_output import (
    STDERR,
    STDOUT,
    OutputFailed,
    discard,
    flush_output,
    watch_output,
)
from tradepost.commands.terminal import report
from tradepost.commands.working_folder import hint_at_working_folder, is_lost_with_working_folder
from tradepost.errors import (
    FileNotWritten,
    InvalidCall,
    InvalidCommandLine,
    MissingExtra,
    TradepostError,
    WorkingFolderDeleted,
)

GROUP = "tradepost.commands"
#: In the help of an option or argument that accepts an empty value.
MAY_BE_EMPTY = "may be empty"
_MISUSE_STATUS = 2
#: Of a command whose output nobody reads any more, such as `head`'s: as Typer has it.
_UNREAD_STATUS = 1
#: What all errors about the command line derive from; Typer exports it under no name of its own.
_Misuse: type[Exception] = typer.BadParameter.__bases__[0]
_EXTRAS = {"tradepost_broker": "broker", "tradepost_worker": "worker", "tradepost_signing": "signing"}


class Commands(TyperGroup):
    """A group whose members are the installed entry points."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of all subcommands, installed extras or not."""
        return sorted(point.name for point in entry_points(group=GROUP))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The subcommand, or one that says which extra it needs; `None` for an unknown name."""
        for point in entry_points(group=GROUP, name=cmd_name):
            return _command(point)
        return None


def _command(point: EntryPoint) -> Any:
    try:
        loaded: Any = point.load()
    except ModuleNotFoundError as error:
        loaded = _refusal(point, error)
    if not isinstance(loaded, typer.Typer):
        app = typer.Typer(add_completion=False)
        app.command(name=point.name)(loaded)
        loaded = app
    command = get_command(loaded)
    command.name = point.name
    _refuse_empty_values(command)
    return command


def _refuse_empty_values(command: Any) -> None:
    """Have every option and argument of `command`, and of those below it, refuse an empty value.

    A script that passes a variable which is not set must not get the current folder, or the default. Where an
    empty value means something, the parameter's help says so.
    """
    for parameter in command.params:
        if MAY_BE_EMPTY not in (getattr(parameter, "help", None) or ""):
            parameter.consume_value = partial(_consume, parameter, parameter.consume_value)
    for member in getattr(command, "commands", {}).values():
        _refuse_empty_values(member)


def _consume(parameter: Any, consume_value: Callable[..., Any], ctx: Any, opts: Mapping[str, Any]) -> Any:
    given = opts.get(parameter.name)
    values = given if isinstance(given, list | tuple) else [given]
    if any(isinstance(value, str) and not value.strip() for value in values):
        raise typer.BadParameter("the value is empty; leave it out, or give one", ctx=ctx, param=parameter)
    value, source = consume_value(ctx, opts)
    # An empty variable is not set, as for the settings: also one of blanks.
    if source.name == "ENVIRONMENT" and isinstance(value, str) and not value.strip():
        return parameter.get_default(ctx), type(source).DEFAULT
    return value, source


def _refusal(point: EntryPoint, error: ModuleNotFoundError) -> typer.Typer:
    extra = _EXTRAS.get(point.module.partition(".")[0], "all")
    app = typer.Typer(add_completion=False)

    @app.command(
        help=f"(needs the extra: {extra})",
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )
    def refuse() -> NoReturn:
        raise MissingExtra(
            f"`tradepost {point.name}` requires the module {error.name}",
            hint=f"Install it: pip install 'tradepost[{extra}]'",
        )

    return app


app = typer.Typer(
    cls=Commands,
    add_completion=False,
    pretty_exceptions_enable=False,  # a defect shows as Python shows it
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tradepost {version('tradepost')}")
        raise typer.Exit


@app.callback()
def root(
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """A marketplace for spare compute: signed, sandboxed, verified inference on other people's devices.

    Try `tradepost demo`: a whole market on this machine.
    """


def main() -> None:
    """Run the command line and exit: 0 success, 2 misuse, 10 and above by fault (`errors.EXIT_CODES`)."""
    as_json = "--json" in sys.argv[1:]
    watch_output()
    try:
        try:
            _run(as_json=as_json)
        finally:
            flush_output()
    except OutputFailed as error:
        discard(STDOUT)
        if error.is_unread:
            sys.exit(_UNREAD_STATUS)
        hint = "Free disk space, or send the output to another place. The command may have done its work."
        _exit(FileNotWritten(f"the standard output: {error.reason}", hint=hint), as_json=as_json)


def _run(*, as_json: bool) -> NoReturn:
    try:
        status = app(prog_name="tradepost", standalone_mode=not as_json)
        # Not reached without --json: then Typer exits itself.
        sys.exit(status if isinstance(status, int) else 0)
    except _Misuse as error:  # only with --json: otherwise Typer has shown it to people
        _exit_for_misuse(error)
    except typer.Abort:
        sys.exit(1)
    except TradepostError as error:
        if type(error) is InvalidCall:  # what a program passes comes from the command line here
            error = InvalidCommandLine(error.detail)
        hint_at_working_folder(error)
        _exit(error, as_json=as_json)
    except FileNotFoundError as error:
        if not is_lost_with_working_folder(error):
            raise
        _exit(WorkingFolderDeleted(str(error)), as_json=as_json)


def _exit_for_misuse(error: Any) -> NoReturn:
    command = error.ctx.command_path if error.ctx is not None else "tradepost"
    hint = f"`{command} --help` lists the arguments and options."
    _exit(InvalidCommandLine(error.format_message(), hint=hint), as_json=True, status=_MISUSE_STATUS)


def _exit(error: TradepostError, *, as_json: bool, status: int | None = None) -> NoReturn:
    """Report the error and exit with its status, unless another one is given."""
    try:
        report(error, as_json=as_json)
    except OSError:  # the status still tells what kind of error it was
        discard(STDERR)
    sys.exit(error.exit_code if status is None else status)
