"""Bad steps: the decision on each update (pure), and what is done about it."""
