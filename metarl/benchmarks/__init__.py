"""How fast it is: each command of `metarl bench` measures side by side with what others use."""
