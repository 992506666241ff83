"""The `tradepost demo` command."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tradepost.commands.number_options import integer_option
from tradepost.commands.options import Json
from tradepost.commands.terminal import show_json
from tradepost.demo.market import DemoPlan, run_demo
from tradepost.demo.report import Report, render

#: Exit code when the demo ran to its end and one of its promises did not hold.
PROMISE_BROKEN = 1


def demo(
    jobs: Annotated[int, integer_option(low=1, high=100_000, about="Number of digits to classify.")] = 200,
    workers: Annotated[
        int, integer_option(low=2, high=32, about="Number of honest workers, each with a different price.")
    ] = 3,
    cheaters: Annotated[
        int, integer_option(low=0, high=8, about="Number of workers that sign wrong labels.")
    ] = 1,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the market running until Ctrl-C.")] = False,
    folder: Annotated[Path | None, typer.Option(help="Keep state and logs in this folder.")] = None,
    as_json: Json = False,
) -> None:
    """Run a whole market on this machine: a broker, honest workers, a cheater, a publisher, a submitter.

    Real handwritten digits are classified by a small ONNX model between two WebAssembly kernels. Nothing
    leaves this machine. If no reference run has contradicted a cheater yet, more digits than `--jobs` follow.
    Exit 0 only if every job was answered, no wrong answer was accepted and every cheater was caught; else
    each promise that did not hold is printed on standard error.
    """
    # SIGTERM unwinds like Ctrl-C, so that no process is left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    plan = DemoPlan(jobs=jobs, workers=workers, cheaters=cheaters, folder=folder)
    console = Console(stderr=True)
    try:
        with _progress(jobs, console) as (on_step, on_answer, stop):

            def on_report(report: Report) -> None:
                stop()
                if as_json:
                    show_json(report)
                else:
                    render(report, Console())
                if keep:
                    console.print(f"The market is still running at {report.url}. Press Ctrl-C to stop it.")
                    signal.pause()

            report = run_demo(plan, on_step=on_step, on_answer=on_answer, on_report=on_report)
    except KeyboardInterrupt:
        console.print("Stopped. All processes of the demo have ended.")
        if not keep:
            raise typer.Exit(130) from None
        return
    if broken := report.broken_promises():
        for promise in broken:
            typer.echo(f"The demo failed: {promise}", err=True)
        raise typer.Exit(PROMISE_BROKEN)


@contextmanager
def _progress(
    jobs: int, console: Console
) -> Iterator[tuple[Callable[[str], None], Callable[[int], None], Callable[[], None]]]:
    """What to call with each step, each answer, and at the end: a live bar, or lines where nobody watches."""
    if not console.is_terminal:
        tenth = max(1, jobs // 10)
        yield (
            lambda step: console.print(f"{step} ..."),
            lambda answered: None if answered % tenth else console.print(f"{answered} of {jobs} answered"),
            lambda: None,
        )
        return
    columns = [
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    ]
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("Starting", total=jobs)
        yield (
            lambda step: progress.update(task, description=step),
            lambda answered: progress.update(task, completed=answered),
            progress.stop,
        )
