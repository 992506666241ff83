"""Files and directories in IPFS's format: write, read, resolve paths, extract.

Imports `ipld` and `storage`.
"""
