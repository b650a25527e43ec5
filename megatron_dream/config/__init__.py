"""Typed configuration: dataclasses, YAML files with positions in their errors, dotted overrides."""
