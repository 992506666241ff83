"""The SQLite database: schema, migrations, transactions, and the verification of the books.

Imports `market` for the records that it keeps.
"""
