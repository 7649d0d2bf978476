"""The command: `python -m workbench.hetermoe.train plan.json`, also under torchrun; see training.py.

It is only run, never imported: the package's `train` is a function.
"""

from __future__ import annotations

from workbench.hetermoe.training import main

if __name__ == "__main__":
    main()
