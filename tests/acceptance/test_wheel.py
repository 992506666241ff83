"""The wheel: what it holds, and that it works where nothing else of the repository is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "tradepost",
    "tradepost_broker",
    "tradepost_kernels",
    "tradepost_reputation",
    "tradepost_signing",
    "tradepost_worker",
}

pytestmark = pytest.mark.acceptance
Install = Callable[..., Path]


def uv() -> str:
    found = shutil.which("uv") or str(Path(sys.executable).parent / "uv")
    assert Path(found).exists(), "uv is neither on the path nor beside this Python"
    return found


@pytest.fixture
def install(callers_environment: Mapping[str, str]) -> Install:
    """Makes a virtual environment in a folder with these requirements; returns its Python."""

    def install(folder: Path, *requirements: str) -> Path:
        # The caller's environment says where the package index and uv's cache are.
        run = partial(subprocess.run, check=True, env=callers_environment)
        run([uv(), "venv", "--quiet", "--python", sys.executable, str(folder)])
        python = folder / "bin" / "python"
        command = [
            uv(),
            "pip",
            "install",
            "--quiet",
            "--python",
            str(python),
            "-c",
            str(ROOT / "constraints.txt"),
        ]
        run([*command, *requirements])
        return python

    return install


def clean_environment(home: Path) -> dict[str, str]:
    return {"HOME": str(home), "PATH": os.environ["PATH"]}


def test_the_wheel_holds_the_six_packages_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == PACKAGES
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    for data in (
        "tradepost/demo/data/digits.onnx",
        "tradepost/demo/data/held_out.safetensors",
        "tradepost/demo/data/pipeline.toml",
        "tradepost_kernels/compiled/normalize.wasm",
        "tradepost_kernels/include/tk_base.h",
        "tradepost_kernels/include/tk_document.h",
        "tradepost_kernels/include/tk_image.h",
        "tradepost_kernels/include/tk_safetensors.h",
        "tradepost_kernels/include/tk_unicode.h",
        "tradepost_kernels/include/tradepost_kernel.h",
        "tradepost_kernels/kernels.lock.json",
    ):
        assert data in names


def test_the_bare_install_is_the_sdk_and_says_what_is_missing(
    wheel: Path, install: Install, tmp_path: Path
) -> None:
    python = install(tmp_path / "venv", str(wheel))
    environment = clean_environment(tmp_path)
    check = "import tradepost; print(tradepost.Client.__name__)"
    run = subprocess.run([python, "-c", check], capture_output=True, text=True, env=environment, check=False)
    assert run.stdout.strip() == "Client", run.stderr
    command = [python.parent / "tradepost", "worker", "run"]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 14
    assert "pip install 'tradepost[worker]'" in run.stderr
    assert "Traceback" not in run.stderr


def test_the_demo_runs_from_the_installed_wheel(wheel: Path, install: Install, tmp_path: Path) -> None:
    python = install(tmp_path / "venv", f"tradepost[all] @ file://{wheel}")
    command = [python.parent / "tradepost", "demo", "--jobs", "24", "--json"]
    run = subprocess.run(
        command, capture_output=True, text=True, env=clean_environment(tmp_path), cwd=tmp_path, check=False
    )
    assert run.returncode == 0, run.stderr + run.stdout
    report = json.loads(run.stdout)
    assert report["answered"] == report["jobs"] >= 24
