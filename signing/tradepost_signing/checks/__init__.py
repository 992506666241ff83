"""Checks whether a signature over an artifact is valid, and who made it.

Imports `keys`, `keyless` and `bundles`.
"""
