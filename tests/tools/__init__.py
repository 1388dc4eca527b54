"""The commands that an operator runs by hand."""
