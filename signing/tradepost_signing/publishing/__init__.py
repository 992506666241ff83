"""From `pipeline.toml` to signed blocks in a broker or a Kubo node.

Imports `bundles`. `onnx_interface` alone imports onnxruntime.
"""
