"""The device and its owner's limits: limits, sensors, and the governor that decides from both.

Imports the shared contract, and `wording`.
"""
