"""Task families, one file each: the environment, its task distributions, and the entries of the registry.

How to add one stands in README.md; `control/cart_pole.py` shows the pattern.
"""
