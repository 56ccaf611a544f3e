"""Games on grids: a goal, a key and its door, mazes, and those of other packages."""
