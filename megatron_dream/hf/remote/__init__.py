"""Code that an exported folder carries; transformers runs it there, beside the sampler's files."""
