"""The operator's commands: their messages, their client, and the table of devices.

Imports the shared contract alone, so that a command starts fast.
"""
