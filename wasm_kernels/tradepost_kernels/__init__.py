"""The project's own kernels, compiled, with a lock that says what each was built from."""

from tradepost_kernels.index import KernelInfo, info, load, names

__all__ = ["KernelInfo", "info", "load", "names"]
