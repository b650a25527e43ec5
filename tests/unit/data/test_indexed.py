"""Every way in which a pair of token files can be wrong is one sentence with file and remedy."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megatron_dream.data.indexed import check_sidecar, inspect_token_files
from megatron_dream.errors import DataError
from tests.unit.data.token_files import EOD, FakeTokenizer, random_documents, write_tokens


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    return write_tokens(tmp_path / "a.b", random_documents(20, 30))


def refused(prefix: Path, match: str) -> None:
    with pytest.raises(DataError, match=match) as error:
        inspect_token_files(prefix)
    message = str(error.value)
    assert str(prefix) in message and message.endswith(".") and "\n" not in message


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_good_files(tmp_path: Path, dtype: type) -> None:
    documents = random_documents(20, 30)
    files = inspect_token_files(write_tokens(tmp_path / "x", documents, dtype))
    assert files.num_tokens == sum(map(len, documents)) and files.num_sequences == 20
    assert files.dtype is dtype and files.sidecar is None
    check_sidecar(files, "ff" * 32, EOD, needs_eod=True)  # nothing known, nothing refused


@pytest.mark.parametrize("ending", [".bin", ".idx"])
def test_missing_file(prefix: Path, ending: str) -> None:
    Path(f"{prefix}{ending}").unlink()
    refused(prefix, "does not exist")


@pytest.mark.parametrize("thorough", [True, False])
@pytest.mark.parametrize(("ending", "by"), [(".bin", -2), (".bin", 2), (".idx", -1), (".idx", 8)])
def test_other_length(prefix: Path, ending: str, by: int, thorough: bool) -> None:
    path = Path(f"{prefix}{ending}")
    content = path.read_bytes()
    path.write_bytes(content[:by] if by < 0 else content + b"\0" * by)
    with pytest.raises(DataError, match="is truncated" if by < 0 else "too long|longer"):
        inspect_token_files(prefix, thorough=thorough)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None
)
@given(st.data())
def test_any_cut_of_the_index_is_refused(prefix: Path, data: st.DataObject) -> None:
    path = Path(f"{prefix}.idx")
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    try:
        refused(prefix, "truncated|no Megatron index")
    finally:
        path.write_bytes(content)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None
)
@given(st.data())
def test_a_changed_byte_is_refused_or_harmless(prefix: Path, data: st.DataObject) -> None:
    """Lengths, offsets and counts are bound to each other; nothing but DataError comes out."""
    path = Path(f"{prefix}.idx")
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    original = content[place]
    content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        inspect_token_files(prefix)
        in_document_ends = place >= len(content) - 8 * 20  # they may merge documents, unused here
        assert content[place] == original or in_document_ends or place == 17
    except DataError:
        assert content[place] != original
    finally:
        content[place] = original
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("place", "raw", "match"),
    [
        (0, b"PK\x03\x04", "no Megatron index"),
        (9, struct.pack("<Q", 2), "version 2"),
        (17, b"\x05", "int64"),
        (17, b"\x63", "code 99"),
        (34, struct.pack("<i", -4), "negative"),
    ],
)
def test_foreign_header(prefix: Path, place: int, raw: bytes, match: str) -> None:
    with open(f"{prefix}.idx", "r+b") as stream:
        stream.seek(place)
        stream.write(raw)
    refused(prefix, match)


def test_foreign_offsets_and_document_ends(prefix: Path) -> None:
    path = Path(f"{prefix}.idx")
    content = path.read_bytes()
    path.write_bytes(content[:114] + struct.pack("<q", 2) + content[122:])
    refused(prefix, "not the sums")
    path.write_bytes(content[:-8] + struct.pack("<q", 19))
    refused(prefix, "document ends")


def test_empty_files(tmp_path: Path) -> None:
    Path(tmp_path / "e.bin").touch()
    Path(tmp_path / "e.idx").touch()
    refused(tmp_path / "e", "no Megatron index")
    Path(tmp_path / "e.idx").write_bytes(struct.pack("<9sQBQQ", b"MMIDIDX\0\0", 1, 8, 0, 0))
    refused(tmp_path / "e", "no documents")
    refused(write_tokens(tmp_path / "z", [np.array([], dtype=np.uint16)]), "no tokens")


@pytest.mark.parametrize("content", ["{", "[1]", "\xff", "[" * 100_000])
def test_broken_sidecar(prefix: Path, content: str) -> None:
    Path(f"{prefix}.json").write_bytes(content.encode("latin-1"))
    refused(prefix, "JSON")


@pytest.mark.parametrize(
    ("sidecar", "match"),
    [
        ({"tokenizer_fingerprint": "cd" * 32}, "cdcdcdcdcdcdcdcd.*abababababababab"),
        ({"eod_id": 3}, "id 3 .*997"),
        ({"tokens": 17}, "says 17"),
        ({"append_eod": False}, "append-eod"),
    ],
)
def test_sidecar_of_other_data(tmp_path: Path, sidecar: dict, match: str) -> None:
    files = inspect_token_files(write_tokens(tmp_path / "s", random_documents(3, 9), **sidecar))
    with pytest.raises(DataError, match=match):
        check_sidecar(files, FakeTokenizer.fingerprint, EOD, needs_eod=True)


def test_sidecar_without_eod_is_fine_without_document_masks(tmp_path: Path) -> None:
    documents = random_documents(3, 9)
    prefix = write_tokens(
        tmp_path / "s",
        documents,
        append_eod=False,
        eod_id=EOD,
        tokens=sum(map(len, documents)),
        tokenizer_fingerprint=FakeTokenizer.fingerprint,
    )
    check_sidecar(inspect_token_files(prefix), FakeTokenizer.fingerprint, EOD)
