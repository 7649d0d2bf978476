"""Kernels of the seven systems, imported as `workbench.kernels`. They import nothing of `workbench`.

A folder is one operation: `reference.py` defines it (obvious, slow), the other files are faster versions
of the same thing, and `__init__.py` holds the public function that picks one by `backend`.
"""
