"""Options shared by the commands of several packages."""

from __future__ import annotations

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
LogJson = Annotated[bool, typer.Option("--json", help="Write the log as JSON lines.")]
BrokerUrl = Annotated[
    str | None, typer.Option("--broker", envvar="TRADEPOST_URL", help="The broker's URL.", show_default=False)
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar="TRADEPOST_API_KEY",
        help="The account's API key; better set in the environment.",
        show_default=False,
    ),
]
