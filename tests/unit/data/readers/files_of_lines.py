"""Makes files in every format that the readers know, for the tests beside."""

import gzip
import json

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import zstandard

from megatron_dream.data.document import Document, Reject
from megatron_dream.data.readers import (
    Limits,
    Piece,
    list_inputs,
    plan_shards,
    read_piece,
    read_shard,
    text_adapter,
)


def read_all(
    inputs, *, shard_bytes=1 << 26, adapter=None, limits=None, fields=(), suffixes=(".py",)
):
    """Every outcome of inputs, shard by shard."""
    files = list_inputs(inputs if isinstance(inputs, list) else [inputs], suffixes)
    adapter = adapter or text_adapter()
    return [
        outcome
        for shard in plan_shards(files, shard_bytes)
        for outcome in read_shard(shard, files, adapter, limits, fields)
    ]


def read_cut(path, cuts, *, limits=None):
    """Outcomes of one file read in the ranges between ``cuts``."""
    files = list_inputs([path])
    bounds = [0, *cuts, None]
    return [
        outcome
        for start, stop in zip(bounds, bounds[1:], strict=False)
        for outcome in read_piece(Piece(0, start, stop), files, text_adapter(), limits or Limits())
    ]


def texts(outcomes):
    return [outcome.text for outcome in outcomes if isinstance(outcome, Document)]


def rejects(outcomes):
    return [outcome for outcome in outcomes if isinstance(outcome, Reject)]


def places(outcomes):
    """What must not depend on how a file was cut."""
    return [
        (outcome.position, outcome.text if isinstance(outcome, Document) else outcome.reason)
        for outcome in outcomes
    ]


def line(text, **fields):
    return json.dumps({"text": text, **fields}).encode()


def write_gz(path, data):
    path.write_bytes(gzip.compress(data))
    return path


def write_frames(path, pieces):
    """One zst frame a piece; returns the frames' offsets."""
    offsets, data = [], b""
    for piece in pieces:
        offsets.append(len(data))
        data += zstandard.ZstdCompressor(write_checksum=True).compress(piece)
    path.write_bytes(data)
    return offsets


def write_parquet(path, rows, schema=None, row_group_size=None):
    table = pa.Table.from_pylist(rows, schema=schema)
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def write_arrow(path, rows, batch=2, kind="stream"):
    """What ``datasets`` saves (the stream format), in record batches of ``batch`` rows."""
    table = pa.Table.from_pylist(rows)
    new = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
    with pa.OSFile(str(path), "wb") as sink, new(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=batch)
    return path


def save_to_disk(folder, parts):
    """A folder as ``datasets`` saves it."""
    folder.mkdir(parents=True)
    names = []
    for number, rows in enumerate(parts):
        names.append(f"data-{number:05d}-of-{len(parts):05d}.arrow")
        write_arrow(folder / names[-1], rows)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "0"}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": {}}))
    return folder
