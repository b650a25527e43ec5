"""Published data sets of verifiable prompts, record by record, to ``RlProblem``: one module a schema."""

from . import deepcoder, guru, kodcode, own
from .schema import Schema, Unsuitable

SCHEMAS: dict[str, Schema] = {
    schema.name: schema for schema in (kodcode.SCHEMA, deepcoder.SCHEMA, guru.SCHEMA, own.SCHEMA)
}

__all__ = ["SCHEMAS", "Schema", "Unsuitable"]
