"""Options of the broker's commands, and the settings that they lead to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tradepost_broker.settings import Settings

DataDir = Annotated[Path | None, typer.Option("--data-dir", help="The broker's data folder.")]
Config = Annotated[
    Path | None,
    typer.Option("--config", help="The settings file (TOML). Default: broker.toml in the data folder."),
]


def load_settings(data_dir: Path | None, config: Path | None) -> Settings:
    """The settings of the broker whose data folder or settings file the options name."""
    return Settings.load(config=config, options={"data_dir": data_dir})
