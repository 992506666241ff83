"""A broker's journal, decided again: under the policy of that time, and under another one.

Imports `world` and the broker's `storage`.
"""
