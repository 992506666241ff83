"""The embedded block store: a folder of blocks within a byte budget.

Imports `ipld`.
"""
