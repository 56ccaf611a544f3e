"""Between a policy's arrays and an environment's own spaces."""
