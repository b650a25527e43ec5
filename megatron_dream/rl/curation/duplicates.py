"""Phase duplicates: of prompts that ask for the same the first stays (SPEC 8: MiniLM vectors, cosine 0.85).

Without an encoder only prompts of the same words are found, and the report says so. Where a prompt holds
code, and in every prompt for a value, the very text counts: there case and spaces may be what is asked
about. Encoders read neither (MiniLM's tokens are lower case), so that they decide nothing of prompts for a
value, of which many differ in one argument only. Vectors lie in a file
mapped into memory, float16: a million of MiniLM's take 768 MB of disk, and another run uses them again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..problems import RlProblem
from .decision import Decision
from .embedding import Embedder
from .measured import measured_file
from .nearest import near_copies
from .phase import Phase, Problems
from .schemas.wording import question_of
from .vector_store import MappedRows, VectorStore

_TEXTS = 4096  # embedded before they are written
_WORD = re.compile(r"\w+|[^\w\s]")
# quoted text, calls, brackets, what is set in from the margin
_CODE = re.compile(r"""[`"=\[{]|\w\(|(?<!\w)'|^[ \t]+\S""", re.MULTILINE)
SAME, NEAR = "same words as an earlier prompt", "near an earlier prompt"


@dataclass(frozen=True)
class Duplicates(Phase):
    """Drops prompts that are near an earlier one.

    Attributes:
        threshold: smallest similarity of a copy.
        make_embedder: loads the encoder; None: prompts of the same words only.
        embedder_identity: what the vectors depend on.
    """

    name: ClassVar[str] = "duplicates"

    threshold: float
    make_embedder: Callable[[], Embedder] | None
    embedder_identity: str = ""

    def identity(self) -> dict[str, Any]:
        """See the base class."""
        return {"threshold": self.threshold, "embedder": self.embedder_identity}

    def decide(self, problems: Problems, folder: Path, notes: list[str]) -> Iterator[Decision]:
        """See the base class."""
        first_of: dict[bytes, str] = {}
        ids: list[str] = []
        same: dict[str, str] = {}
        num_values = 0
        for problem in problems():
            first = first_of.setdefault(_words(problem), problem.id)
            if first != problem.id:
                same[problem.id] = first
            elif problem.kind == "output":
                num_values += 1
            else:
                ids.append(problem.id)
        del first_of
        for name, first in same.items():
            yield Decision(name, "dropped", SAME, first)
        if self.make_embedder is None:
            notes.append("no encoder was given (--embeddings): near duplicates were not looked for")
            return
        if num_values:
            notes.append(f"{num_values:,} prompts for a value were compared by their text only")
        left = (p for p in problems() if p.id not in same and p.kind != "output")
        path = measured_file(folder, "vectors", self.embedder_identity)
        vectors = _vectors(left, self.make_embedder(), path)
        for copy, first_number, similarity in near_copies(vectors, self.threshold):
            detail = f"{similarity:.3f} {ids[first_number]}"
            yield Decision(ids[copy], "dropped", NEAR, detail)


def _words(problem: RlProblem) -> bytes:
    """A digest of a question's words, of its text where it holds code or is for a value."""
    text = question_of(problem.prompt_text()).strip()
    if problem.kind != "output" and not _CODE.search(text):
        text = " ".join(_WORD.findall(text.lower()))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _vectors(problems: Iterator[RlProblem], embedder: Embedder, path: Path) -> MappedRows:
    """Vectors of all prompts, [N, D]; those that an earlier run has made are not made again."""
    store = VectorStore(path, embedder.size)
    digests: list[bytes] = []
    wanted: dict[bytes, str] = {}
    for problem in problems:
        text = question_of(problem.prompt_text())
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        digests.append(digest)
        if digest not in store:
            wanted[digest] = text
        if len(wanted) == _TEXTS:
            _embed(wanted, embedder, store)
    _embed(wanted, embedder, store)
    return store.rows(digests)


def _embed(wanted: dict[bytes, str], embedder: Embedder, store: VectorStore) -> None:
    """Embed texts and forget them."""
    if wanted:
        store.add(list(wanted), embedder.embed(list(wanted.values())))
        wanted.clear()
