"""Robots: the families of MuJoCo's bodies, and Meta-World's arm."""
