"""From `pipeline.toml` to signed blocks in a broker or a Kubo node.

Imports `checks`. `onnx_interface` alone imports onnxruntime.
"""
