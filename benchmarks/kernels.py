"""The built-in kernels on typical inputs: fuel, time in the sandbox, time of the same C natively, size.

    python benchmarks/kernels.py [--rounds 5] [--json]

Native code is made by the same compiler for the baseline of this processor (`zig cc -O3 -mcpu=baseline`).
Both times have fresh memory and include reading and writing the documents; the sandbox's also includes making
the instance. They are processor times, the shortest of the rounds, so that other work on the machine counts
little. A row says where the native output has other bytes: there, the C library of this machine computes a
logarithm or a power differently from the one inside the kernel.
"""

from __future__ import annotations

import argparse
import io
import json
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import tradepost_kernels
from tradepost.pipeline.tensors import Tensor, TensorDocument, encode
from tradepost_worker.runner.kernel_sandbox import Sandbox

_ROOT = Path(__file__).parents[1]
_MEMORY_BYTES = 1 << 30


@dataclass(frozen=True)
class Row:
    """A kernel on one input: fuel, processor time, size, and whether native code gave the same bytes."""

    name: str
    about: str
    fuel: int
    sandbox_ms: float
    native_ms: float
    wasm_bytes: int
    same_bytes: bool


def _wav(frames: int) -> Tensor:
    samples = (np.sin(np.arange(frames) / 20) * 20000).astype("<i2").tobytes()
    fields = struct.pack("<HHIIHH", 1, 1, 16000, 32000, 2, 16)
    file = io.BytesIO()
    file.write(b"RIFF" + struct.pack("<I", 36 + len(samples)) + b"WAVEfmt " + struct.pack("<I", 16) + fields)
    file.write(b"data" + struct.pack("<I", len(samples)) + samples)
    return np.frombuffer(file.getvalue(), "u1")


def _text(text: str) -> Tensor:
    return np.frombuffer(text.encode(), "u1")


def samples() -> dict[str, tuple[str, TensorDocument]]:
    """For each kernel, a typical input and what it is."""
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (720, 1280, 3), dtype=np.uint8)
    floats = {
        name: random.standard_normal(shape).astype("f4")
        for name, shape in {
            "samples": (160_000,),
            "logits": (40, 6625),
            "hidden": (32, 128, 384),
            "many": (1_000_000,),
            "scores": (1, 1000),
        }.items()
    }
    corners = random.random((8400, 2)) * 600
    boxes = np.concatenate([corners, corners + random.random((8400, 2)) * 40], axis=1).astype("f4")
    quads = np.array([[[9, n], [300, n + 20], [298, n + 60], [7, n + 40]] for n in range(0, 600, 60)], "f4")
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        *(f"w{n}" for n in range(30_000)),
        *(f"##{n}" for n in range(500)),
    ]
    labels = "\n".join(f"c{n}" for n in range(6624))
    frames = (np.sin(np.arange(9000) / 40) > 0).astype("f4")

    def document(tensors: dict[str, Tensor], **metadata: str) -> TensorDocument:
        return TensorDocument(tensors, metadata)

    size = {"size": "640,640"}
    return {
        "bytes_window": ("1 MB", document({"bytes": random.integers(0, 256, 1_000_000, dtype=np.uint8)})),
        "checksum": ("1 MB", document({"x": random.integers(0, 256, 1_000_000, dtype=np.uint8)})),
        "crop_rotate": ("10 lines of 48 x 320", document({"image": image, "quads": quads})),
        "ctc_decode": ("40 steps of 6,625", document({"scores": floats["logits"], "labels": _text(labels)})),
        "delta_filter": ("1280 x 720 RGB", document({"x": image, "last": image})),
        "log_mel": ("10 s at 16 kHz", document({"samples": floats["samples"]})),
        "nms": (
            "8,400 boxes of 80",
            document(
                {"boxes": boxes, "scores": random.random((8400, 80)).astype("f4") ** 8}, score_min="0.9"
            ),
        ),
        "normalize": ("1280 x 720 to 640 x 640", document({"image": image}, **size)),
        "pool_normalize": (
            "32 x 128 x 384",
            document({"hidden": floats["hidden"], "mask": np.ones((32, 128), "i8")}),
        ),
        "quantize": ("1,000,000 floats", document({"x": floats["many"]}, scale="0.02", zero_point="128")),
        "resize": ("1280 x 720 to 640 x 640", document({"image": image}, fit="letterbox", **size)),
        "sample_stats": ("1,000,000 floats", document({"x": floats["many"]})),
        "segments": ("9,000 frames", document({"scores": frames})),
        "threshold": ("1,000,000 floats", document({"scores": floats["many"]})),
        "topk": ("1,000 scores", document({"scores": floats["scores"]}, k="5")),
        "wav_decode": ("10 s at 16 kHz", document({"bytes": _wav(160_000)})),
        "wordpiece": (
            "2,000 words, 30,504 tokens",
            document({"text": _text("w123 w29999x, " * 1000), "vocabulary": _text("\n".join(words))}),
        ),
    }


def measured(name: str, about: str, document: bytes, *, rounds: int, folder: Path) -> Row:
    """One kernel's row."""
    wasm = tradepost_kernels.load(name)
    kernel = Sandbox().load(wasm)
    sandbox_s = []
    for _ in range(rounds):
        started_s = time.process_time()
        run = kernel.run(
            document,
            fuel=1 << 50,
            memory_bytes_max=_MEMORY_BYTES,
            output_bytes_max=_MEMORY_BYTES,
            wall_s_max=60,
        )
        sandbox_s.append(time.process_time() - started_s)
    native_ns, output = _native(name, document, rounds=rounds, folder=folder)
    return Row(
        name,
        about,
        run.fuel_used,
        min(sandbox_s) * 1e3,
        native_ns / 1e6,
        len(wasm),
        output == run.output,
    )


def _native(name: str, document: bytes, *, rounds: int, folder: Path) -> tuple[int, bytes]:
    program, given, made = folder / name, folder / "given", folder / "made"
    command = [
        *(sys.executable, "-m", "ziglang", "cc", "-O3", "-mcpu=baseline", "-std=c17", f'-DKERNEL="{name}.c"'),
        *("-I", tradepost_kernels.headers(), "-I", _ROOT / "wasm_kernels" / "kernel-sources"),
        *(_ROOT / "benchmarks" / "native_kernel.c", "-o", program, "-lm"),
    ]
    subprocess.run(command, check=True)
    given.write_bytes(document)
    runs = [
        subprocess.run([program, given, made], check=True, capture_output=True).stdout for _ in range(rounds)
    ]
    return min(map(int, runs)), made.read_bytes()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure the built-in kernels.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            measured(name, about, encode(document), rounds=options.rounds, folder=Path(folder))
            for name, (about, document) in samples().items()
        ]
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    print("| kernel | input | fuel | sandbox, ms | native, ms | ratio | bytes |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        ratio = row.sandbox_ms / row.native_ms
        note = "" if row.same_bytes else " (other bytes natively)"
        print(
            f"| `{row.name}` | {row.about} | {row.fuel:,} | {row.sandbox_ms:.2f} | {row.native_ms:.2f} "
            f"| {ratio:.1f} | {row.wasm_bytes:,}{note} |"
        )


if __name__ == "__main__":
    main()
