"""Physics engines that step many worlds of one robot at once."""
