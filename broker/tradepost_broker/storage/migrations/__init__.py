"""The schema's history, newest last. `tests/unit/test_broker_schema.py` holds it equal to `tables`."""
