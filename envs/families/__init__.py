"""Task families, one file each: the environment, its task distributions, and the entries of the registry.

How to add one: copy the pattern of `control/cart_pole.py`.

1. A class derived from TaskEnv: `initial`, `transition`, `reward` and, where needed, `observation` and `terminal`, in
   torch, for any leading batch dimensions. Its docstring states the equations, the units and the source.
2. A function that returns a TaskDistribution: an environment and the ranges of its task parameters.
3. A tuple FAMILIES of `Family("my-family", my_family, "metarl/MyFamily-v0")` at the end of the file.
4. One line for the file in MODULES of `metarl/envs/registry.py`.

`metarl envs` then lists it, and tests/envs/families/test_families.py checks what every family promises.
"""
