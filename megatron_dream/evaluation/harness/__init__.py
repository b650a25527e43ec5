"""Benchmarks through a model: settings, generation that resumes, verdicts, scores, tables, evaluators."""
