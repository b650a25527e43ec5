"""A look at the first records before the work: an adapter that fits none of them is an error."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from ...errors import DataError
from ..document import Document
from .adapter import Adapter
from .files import InputFile
from .limits import Limits
from .planning import Piece
from .reading import read_piece

_RECORDS = 100


def check_adapter(
    files: Sequence[InputFile], adapter: Adapter, limits: Limits | None = None
) -> None:
    """Read the beginning of the first file that holds records.

    Raises:
        DataError: none of its first records gives a text; names the first one's reason, such as a
            missing field and the fields there are.
    """
    for number, file in enumerate(files):
        if file.format == "text" or not file.size:
            continue
        found = list(islice(read_piece(Piece(number), files, adapter, limits), _RECORDS))
        if any(isinstance(outcome, Document) for outcome in found):
            return
        if found:
            first = found[0]
            reason = "" if isinstance(first, Document) else first.reason
            raise DataError(
                f"{file.path}: none of the first {len(found)} records has a text; {reason}. Name the text "
                "field, a template or the data set."
            )
