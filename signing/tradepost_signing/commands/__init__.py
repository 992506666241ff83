"""`tradepost keygen`, `sign`, `verify`, `publish`, `trust`, `revocations` and `inspect`.

Imports every other room.
"""
