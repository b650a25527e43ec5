"""From token files to micro-batches: preprocess, rows, noise, loader."""
