"""The objective's mathematics: noise, weights, rows. Pure; imports nothing of the package."""
