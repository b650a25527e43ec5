"""Data of the sft stage: prepared once by ``prepare-sft``, read as samples, truncated, noised."""
