"""Checkpoints: megatron-core's distributed format plus megatron_dream.json, complete or not there."""
