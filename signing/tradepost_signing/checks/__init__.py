"""Whether a signature over an artifact is valid, and whose it is.

Imports `keys`, `keyless` and `bundles`.
"""
