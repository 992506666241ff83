"""Transfers of blocks, all verified: sources, fetching, CARs, the trustless gateway, Kubo.

Imports `ipld`, `storage` and `unixfs`.
"""
