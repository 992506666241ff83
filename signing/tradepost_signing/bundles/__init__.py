"""The formats of signatures: Sigstore bundles, in-toto statements, attestations."""
