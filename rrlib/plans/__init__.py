"""Plans on paper: what a training, an evaluation or a synthesis will need, before money is spent."""
