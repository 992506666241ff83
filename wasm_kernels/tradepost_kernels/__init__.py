"""The project's own compiled kernels, with a lock file of their sources."""

from tradepost_kernels.index import KernelInfo, info, load, names

__all__ = ["KernelInfo", "info", "load", "names"]
