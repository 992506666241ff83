"""How leases and jobs end: verdicts, evidence, payments, refunds, lost leases, revocations.

Imports `state` and what is below it.
"""
