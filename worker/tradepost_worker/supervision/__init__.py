"""The agent's side of its runners: start, message, limit, suspend and kill them.

Imports `device`, and of `runner` only what needs no engine.
"""
