"""The audit log's arithmetic and formats, pure: the broker writes the log with them, anyone verifies it.

The tree is that of RFC 6962, checkpoints are C2SP tlog-checkpoints, and tiles are as in C2SP tlog-tiles.
"""
