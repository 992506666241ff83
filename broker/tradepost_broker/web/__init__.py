"""HTTP: endpoints by declaration, limits on callers, pages, and the streams of clients and workers.

Imports every room below it; only `assembly`, `app` and `cli` import it.
"""
