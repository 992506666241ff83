"""The formats of a pipeline: manifest, tensor documents, and what kernels and models may contain.

Imports `content.ipld` and the errors.
"""
