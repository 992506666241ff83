"""List the benchmarks, or run one: `python -m benchmarks jobs`."""

from __future__ import annotations

import importlib
import pkgutil
import runpy
import sys

import benchmarks


def main() -> None:
    """Run the benchmark that the first argument names; without one, say what there is."""
    names = [one.name for one in pkgutil.iter_modules(benchmarks.__path__) if not one.name.startswith("_")]
    if len(sys.argv) > 1 and sys.argv[1] in names:
        module = f"benchmarks.{sys.argv.pop(1)}"
        sys.argv[0] = module
        runpy.run_module(module, run_name="__main__")
        return
    for name in names:
        doc = importlib.import_module(f"benchmarks.{name}").__doc__ or ""
        print(f"{name:16} {doc.strip().splitlines()[0]}")
    if len(sys.argv) > 1:
        sys.exit(f"there is no benchmark named {sys.argv[1]!r}")


main()
