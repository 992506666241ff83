"""The single writer: runs the market core on every event, in order, with group commit.

Imports `market` and `storage`.
"""
