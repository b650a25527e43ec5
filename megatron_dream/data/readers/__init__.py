"""From files to documents: listing inputs, planning shards, reading them; adapters of known corpora."""

from .adapter import ROLES, Adapter, text_adapter
from .checking import check_adapter
from .corpora import CORPORA, corpus
from .files import InputFile, content_of
from .limits import Limits
from .listing import DATA_SUFFIXES, list_inputs
from .planning import SHARD_BYTES, Piece, Shard, plan_shards
from .reading import Outcome, PieceReader, read_piece, read_shard

__all__ = [
    "CORPORA",
    "DATA_SUFFIXES",
    "ROLES",
    "SHARD_BYTES",
    "Adapter",
    "InputFile",
    "Limits",
    "Outcome",
    "Piece",
    "PieceReader",
    "Shard",
    "check_adapter",
    "content_of",
    "corpus",
    "list_inputs",
    "plan_shards",
    "read_piece",
    "read_shard",
    "text_adapter",
]
