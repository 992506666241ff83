"""Blocks between machines, none believed: sources, fetching, CARs, the trustless gateway, Kubo.

Imports `ipld`, `storage` and `unixfs`.
"""
