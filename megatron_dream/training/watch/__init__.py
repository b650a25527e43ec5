"""A run's life on a cluster: hangs, signals, limits, restarts, stragglers, goodput, alerts."""
