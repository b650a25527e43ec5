"""A mixture of corpora: the recipe, its plan, and preprocessing of all its sources."""
