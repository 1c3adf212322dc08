"""Mutated files for every parser: see `targets`; `python -m fuzz` from the folder `tests` runs many of them."""
