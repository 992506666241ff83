"""The smallest ONNX model that computes, to see whether an execution provider works: y = x + x, one float.

Written out by hand, so that it needs no ONNX library: IR version 7, opset 13.
"""

from __future__ import annotations

from typing import Final

#: Field by field: ir_version; graph { node { Add(x, x) -> y } name input x output y }; opset_import.
PROBE_MODEL: Final = (
    b"\x08\x07"
    b"\x3a\x35"
    b"\x0a\x0e\x0a\x01x\x0a\x01x\x12\x01y\x22\x03Add"
    b"\x12\x01g"
    b"\x5a\x0f\x0a\x01x\x12\x0a\x0a\x08\x08\x01\x12\x04\x0a\x02\x08\x01"
    b"\x62\x0f\x0a\x01y\x12\x0a\x0a\x08\x08\x01\x12\x04\x0a\x02\x08\x01"
    b"\x42\x04\x0a\x00\x10\x0d"
)
