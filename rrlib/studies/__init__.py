"""Studies: the paper's questions as tables of rows, over seeds."""
