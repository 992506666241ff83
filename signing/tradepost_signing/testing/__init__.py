"""For tests of what uses this package: `FakeSigstore` stands for Sigstore's public instance, and
`ECHO_PIPELINE` is a `pipeline.toml` of one kernel, in `kernel.wasm` beside it.
"""

from tradepost_signing.testing.fake_sigstore import FakeSigstore

__all__ = ["ECHO_PIPELINE", "FakeSigstore"]

ECHO_PIPELINE = """
name = "echo"
version = "1"
[inputs]
x = { dtype = "U8", shape = ["?"] }
[[stage]]
name = "one"
kernel = "kernel.wasm"
inputs = { x = "input.x" }
outputs = ["y"]
[outputs]
y = "one.y"
"""
