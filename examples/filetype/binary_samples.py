"""Small files of binary types, made with the standard library and Pillow: the same bytes on each run.

Containers are given fixed dates, and noise a fixed seed. Office documents are the least that their standards
call a document: the parts that Word, Excel, PowerPoint and LibreOffice look for, and nothing else.
"""

from __future__ import annotations

import bz2
import gzip
import importlib.util
import io
import lzma
import marshal
import math
import pickle
import random
import sqlite3
import struct
import tarfile
import time
import wave
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from office_samples import OFFICE_DOCUMENTS
from PIL import Image

#: One moment, as a UTC date and as Unix seconds.
_DATE: Final = (2024, 3, 1, 6, 0, 0)
_DATE_S: Final = 1709272800
_TEXT: Final = "".join(
    f"{hour:02d}:00 level {3 + math.sin(hour / 2):.2f} m\n" for hour in range(240)
).encode()

#: File extension -> Pillow's name of the format.
_IMAGE_FORMATS: Final = {
    "png": "PNG",
    "jpg": "JPEG",
    "gif": "GIF",
    "bmp": "BMP",
    "webp": "WEBP",
    "tiff": "TIFF",
    "ico": "ICO",
    "icns": "ICNS",
    "tga": "TGA",
    "jp2": "JPEG2000",
}


def binary_samples() -> dict[str, bytes]:
    """The content of each sample by file name."""
    samples = {f"sample.{extension}": make() for extension, make in _MAKERS.items()}
    samples |= {f"sample.{extension}": zip_of(parts) for extension, parts in OFFICE_DOCUMENTS.items()}
    for extension, name in _IMAGE_FORMATS.items():
        samples[f"photo.{extension}"] = _image(name)
        samples[f"drawing.{extension}"] = _image(name, drawing=True)
    return samples


def zip_of(parts: Mapping[str, str | bytes]) -> bytes:
    """A zip archive of these files, in this order. A part named `mimetype` is stored as it is."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in parts.items():
            info = zipfile.ZipInfo(name, _DATE)
            info.compress_type = zipfile.ZIP_STORED if name == "mimetype" else zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return buffer.getvalue()


def _image(format_name: str, *, drawing: bool = False) -> bytes:
    """A smooth picture with noise, or a drawing of flat areas."""
    y, x = np.mgrid[0:128, 0:128].astype(np.float64)
    if drawing:
        pixels = np.stack([(x // 32) * 60, (y // 32) * 60, np.hypot(x - 64, y - 64) // 40 * 120], axis=2)
    else:
        noise = np.random.default_rng(7).normal(0, 8, (128, 128, 3))
        pixels = np.stack([x * 2, y * 2, 128 + 100 * np.sin(x * y / 900)], axis=2) + noise
    buffer = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(buffer, format_name)
    return buffer.getvalue()


def _pdf() -> bytes:
    buffer = io.BytesIO()
    at = time.struct_time((*_DATE, 4, 61, 0))
    Image.new("RGB", (64, 64), "steelblue").save(
        buffer, "PDF", title="Tide table", creationDate=at, modDate=at
    )
    return buffer.getvalue()


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("tides/readme.txt", "tides/levels.txt"):
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(_TEXT), _DATE_S
            archive.addfile(info, io.BytesIO(_TEXT))
    return buffer.getvalue()


def _deb() -> bytes:
    """An `ar` archive with a Debian package's three members."""
    members = {"debian-binary": b"2.0\n", "control.tar.xz": lzma.compress(_TEXT), "data.tar.xz": _xz()}
    parts = [b"!<arch>\n"]
    for name, content in members.items():
        header = f"{name:<16}{_DATE_S:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n"
        parts += [header.encode(), content, b"\n" * (len(content) % 2)]
    return b"".join(parts)


def _xz() -> bytes:
    return lzma.compress(_TEXT)


def _sqlite() -> bytes:
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE reading (station INTEGER, hour INTEGER, level_m REAL)")
    rows = [(11 + hour % 3, hour, 3 + math.sin(hour / 2)) for hour in range(500)]
    database.executemany("INSERT INTO reading VALUES (?, ?, ?)", rows)
    database.commit()
    content = database.serialize()
    database.close()
    return content


def _wav() -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        tone = (round(20000 * math.sin(2 * math.pi * 440 * i / 8000)) for i in range(8000))
        sound.writeframes(b"".join(struct.pack("<h", sample) for sample in tone))
    return buffer.getvalue()


def _midi() -> bytes:
    notes = b"".join(bytes((0, 0x90, pitch, 96, 96, 0x80, pitch, 0)) for pitch in range(60, 73))
    track = b"\x00\xff\x51\x03\x07\xa1\x20" + notes + b"\x00\xff\x2f\x00"
    return b"MThd" + struct.pack(">IHHH", 6, 0, 1, 96) + b"MTrk" + struct.pack(">I", len(track)) + track


def _wasm() -> bytes:
    """`(func (export "add") (param i32 i32) (result i32) local.get 0 local.get 1 i32.add)`"""
    return b"".join(
        (
            b"\x00asm\x01\x00\x00\x00",
            b"\x01\x07\x01\x60\x02\x7f\x7f\x01\x7f",  # one type
            b"\x03\x02\x01\x00",  # one function of that type
            b"\x07\x07\x01\x03add\x00\x00",  # exported as add
            b"\x0a\x09\x01\x07\x00\x20\x00\x20\x01\x6a\x0b",  # its body
        )
    )


def _python_bytecode() -> bytes:
    source = "def height(low, high, twelfths):\n    return low + (high - low) * twelfths / 12\n"
    code = compile(source * 5, "tides.py", "exec")
    # Later versions of marshal write reference counts, which vary.
    return importlib.util.MAGIC_NUMBER + struct.pack("<III", 0, 0, len(source)) + marshal.dumps(code, 2)


def _numpy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.linspace(0, 1, 500, dtype=np.float32))
    return buffer.getvalue()


def _npz() -> bytes:
    return zip_of({"levels.npy": _numpy(), "hours.npy": _numpy()})


def _pickle() -> bytes:
    return pickle.dumps({"stations": [{"id": i, "levels": [i * 0.5] * 20} for i in range(30)]}, protocol=4)


def _pem() -> bytes:
    key = ec.derive_private_key(_DATE_S, ec.SECP256R1())
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _pcap() -> bytes:
    header = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    frame = bytes.fromhex(
        "ffffffffffff0242ac110002080600010800060400010242ac110002ac110002000000000000ac110001"
    )
    packets = [struct.pack("<IIII", _DATE_S + i, i, len(frame), len(frame)) + frame for i in range(40)]
    return header + b"".join(packets)


def _torrent() -> bytes:
    pieces = random.Random(3).randbytes(20 * 40)
    info = b"d6:lengthi655360e4:name9:tides.tar12:piece lengthi16384e6:pieces800:" + pieces + b"e"
    return b"d8:announce32:http://tracker.example.org/tides13:creation datei1709272800e4:info" + info + b"e"


def _java_class() -> bytes:
    """The class file of `public class Tide {}` in `org.example`, whose only member is its constructor."""

    def utf8(text: str) -> bytes:
        return b"\x01" + struct.pack(">H", len(text)) + text.encode()

    pool = [
        b"\x0a\x00\x03\x00\x07",  # 1: java/lang/Object.<init>
        b"\x07\x00\x08",  # 2: class Tide
        b"\x07\x00\x09",  # 3: class java/lang/Object
        *map(utf8, ("<init>", "()V", "Code")),  # 4, 5, 6
        b"\x0c\x00\x04\x00\x05",  # 7: <init>:()V
        *map(utf8, ("org/example/Tide", "java/lang/Object", "SourceFile", "Tide.java")),  # 8, 9, 10, 11
    ]
    code = b"\x00\x01\x00\x01" + struct.pack(">I", 5) + b"\x2a\xb7\x00\x01\xb1" + b"\x00\x00\x00\x00"
    constructor = b"\x00\x01\x00\x04\x00\x05\x00\x01\x00\x06" + struct.pack(">I", len(code)) + code
    return b"".join(
        (
            b"\xca\xfe\xba\xbe\x00\x00\x00\x41",
            struct.pack(">H", len(pool) + 1),
            *pool,
            b"\x00\x21\x00\x02\x00\x03\x00\x00\x00\x00\x00\x01",
            constructor,
            b"\x00\x01\x00\x0a\x00\x00\x00\x02\x00\x0b",
        )
    )


def _jar() -> bytes:
    manifest = "Manifest-Version: 1.0\nCreated-By: 21 (Example)\nMain-Class: org.example.Tide\n"
    return zip_of({"META-INF/MANIFEST.MF": manifest, "org/example/Tide.class": _java_class()})


_MAKERS: Final[Mapping[str, Callable[[], bytes]]] = {
    "zip": lambda: zip_of({"readme.txt": _TEXT, "levels/brest.txt": _TEXT}),
    "gz": lambda: gzip.compress(_TEXT, mtime=0),
    "bz2": lambda: bz2.compress(_TEXT),
    "xz": _xz,
    "zlib": lambda: zlib.compress(_TEXT),
    "tar": _tar,
    "tar.gz": lambda: gzip.compress(_tar(), mtime=0),
    "deb": _deb,
    "pdf": _pdf,
    "sqlite": _sqlite,
    "wav": _wav,
    "mid": _midi,
    "wasm": _wasm,
    "pyc": _python_bytecode,
    "npy": _numpy,
    "npz": _npz,
    "pickle": _pickle,
    "pem": _pem,
    "pcap": _pcap,
    "torrent": _torrent,
    "class": _java_class,
    "jar": _jar,
    "random": lambda: random.Random(11).randbytes(5000),
}
