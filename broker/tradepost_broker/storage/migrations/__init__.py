"""The schema's history, newest last. `tests/unit/broker/test_schema.py` holds it equal to `tables`."""
