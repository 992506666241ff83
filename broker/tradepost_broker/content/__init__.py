"""Blocks that accounts and workers upload, published pipelines, and when documents are deleted.

Imports `storage` and `engine`.
"""
