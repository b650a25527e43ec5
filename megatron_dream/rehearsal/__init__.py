"""Rehearsal: the real job for N processes, built in one without a GPU: what would fail fails here."""
