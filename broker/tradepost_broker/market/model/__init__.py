"""The market's data: records, events and instructions, the policy, and the tables of states.

Imports the shared contract alone.
"""
