"""The project's compiled kernels, with a lock file of their sources, and the C headers to write others."""

from tradepost_kernels.index import KernelInfo, headers, info, load, names

__all__ = ["KernelInfo", "headers", "info", "load", "names"]
