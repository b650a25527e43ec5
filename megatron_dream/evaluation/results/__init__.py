"""What was measured, with which command, on which commit: docs/results.md and its HTML report."""
