"""Hostile kernels, models and takeovers, and what must become of them.

    python -m tradepost_worker.testing.hostile

runs them all against this device's sandbox, through the same runners that jobs use, and prints a table. It
exits with status 1 on any breach.
"""
