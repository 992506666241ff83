"""Sigstore keyless signatures: certificates, transparency log entries, trusted roots, offline checks."""
