"""What a run will need before it is queued: memory, time, money. Dataclasses in, dataclasses out.

docs/planning.md has every formula with its symbols, units and source.
"""
