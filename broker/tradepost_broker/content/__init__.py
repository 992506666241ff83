"""Blocks that accounts and workers upload, published pipelines, and when documents are deleted.

Imports `engine` and the rooms below it.
"""
