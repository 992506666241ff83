"""Fakes for tests of what uses this package: `FakeSigstore` stands for Sigstore's public instance."""

from tradepost_signing.testing.fake_sigstore import FakeSigstore

__all__ = ["FakeSigstore"]
