"""Blocks and their links: CIDs, dag-pb, DAG-CBOR, and walks over a DAG."""
