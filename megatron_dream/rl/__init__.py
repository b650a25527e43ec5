"""Reinforcement learning with verifiable rewards (SPEC 8)."""
