"""The benchmarks in their own formats: files, prompts, what of an answer is judged, and by which tests."""
