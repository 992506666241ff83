"""Files and directories as IPFS addresses them: write, read, resolve paths, extract.

Imports `ipld` and `storage`.
"""
