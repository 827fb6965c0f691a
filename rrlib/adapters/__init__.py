"""Doors into other people's stacks: one module each, imported only when it is used, behind an extra of its own."""
