"""Stacks: the servers, the apps and the workers of one block, as processes."""
