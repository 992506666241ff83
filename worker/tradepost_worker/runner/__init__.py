"""The child process that runs foreign code: no keys, no network, no files but its pipes.

This room alone imports wasmtime and onnxruntime. It imports nothing of the other rooms.
"""
