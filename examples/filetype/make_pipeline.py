"""Write the filetype pipeline to a folder, with the model and the labels of the installed package `magika`.

Run `python examples/filetype/make_pipeline.py FOLDER`, then `tradepost publish FOLDER/pipeline.toml`. Nothing
of magika (Apache-2.0) is in this repository.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

PIPELINE: Final = Path(__file__).with_name("pipeline.toml")
MODEL_NAME: Final = "standard_v3_3"

#: The window kernel's metadata -> the name of the same number in magika's configuration.
_WINDOW: Final = {
    "head": "beg_size",
    "tail": "end_size",
    "block": "block_size",
    "pad": "padding_token",
}


def make_pipeline(folder: Path) -> Path:
    """Write the pipeline to `folder`; the path of its `pipeline.toml`.

    Raises `ValueError` if the installed model wants other windows than the pipeline makes.
    """
    model = files("magika") / "models" / MODEL_NAME
    config = json.loads((model / "config.min.json").read_text())
    check_window(config)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes((model / "model.onnx").read_bytes())
    (folder / "labels.txt").write_text("\n".join(config["target_labels_space"]))
    return Path(shutil.copy(PIPELINE, folder))


def check_window(config: dict[str, Any]) -> None:
    """Raise `ValueError` unless the window in `pipeline.toml` is the one in magika's configuration."""
    stages = tomllib.loads(PIPELINE.read_text())["stage"]
    metadata = next(stage for stage in stages if stage["name"] == "window")["metadata"]
    for ours, theirs in _WINDOW.items():
        if int(metadata[ours]) != config[theirs]:
            raise ValueError(
                f"{MODEL_NAME} has {theirs} {config[theirs]}; {PIPELINE.name} has {ours} {metadata[ours]}"
            )
    if config["mid_size"] or config["use_inputs_at_offsets"]:
        raise ValueError(f"{MODEL_NAME} looks at more than a file's two ends")


def main() -> None:
    """Write the pipeline to the folder that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    print(make_pipeline(parser.parse_args().folder))


if __name__ == "__main__":
    main()
