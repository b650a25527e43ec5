"""datatrove's MinHash, in blocks that stay in the processor's cache.

``MinhashDedupSignature`` gives the hash function of shingles and the permutations; the arithmetic on
them is done here: its own holds a table of all shingles times all hashes several times over (9 GB for
10 million shingles), and takes three times as long. The two are compared at every start.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import MissingDependencyError
from ..datatrove_package import datatrove_version, import_datatrove

if TYPE_CHECKING:
    from .near import MinhashParameters

_BLOCK = 256  # shingles; times 112 hashes of 8 bytes: 230 kB
_PRIME = np.uint64((1 << 61) - 1)
_SHIFT = np.uint64(61)
_PURPOSE = "Finding near duplicates"


class MinHasher:
    """Lowest hashes of sets of shingles.

    Args:
        parameters: of the signatures.

    Raises:
        MissingDependencyError: datatrove or its hash function is not installed, or this version of
            datatrove computes signatures in another way.
    """

    def __init__(self, parameters: MinhashParameters) -> None:
        step = _signature_step(parameters)
        self._precision, self._is_sha1 = parameters.precision, parameters.hash_fc == "sha1"
        self._multipliers, self._offsets = (array.astype(np.uint64) for array in step.parameters)
        self._hash: Callable[[str], int] = step.hash_function
        self._work = np.empty((2, _BLOCK, self._multipliers.size), dtype=np.uint64)
        self._check(step)

    @property
    def simplify(self) -> Callable[[str], str]:
        """Datatrove's normalisation of prose."""
        simplify: Callable[[str], str] = import_datatrove("utils.text", _PURPOSE).simplify_text
        return simplify

    def lowest(self, shingles: Collection[str]) -> NDArray[np.uint64]:
        """Smallest value of each permutation over the hashes of ``shingles``, uint64 [hashes]."""
        values = self._hashed(shingles)
        result = np.full(self._multipliers.size, np.iinfo(np.uint64).max, dtype=np.uint64)
        for start in range(0, len(values), _BLOCK):
            block = self._permuted(values[start : start + _BLOCK])
            np.minimum(result, block.min(axis=0), out=result)
        return result

    def _hashed(self, shingles: Collection[str]) -> NDArray[np.uint64]:
        """Hashes of shingles, uint64 [shingles, 1]."""
        if not self._is_sha1:
            return np.fromiter(map(self._hash, shingles), np.uint64, len(shingles)).reshape(-1, 1)
        sha1 = hashlib.sha1
        digests = b"".join([sha1(shingle.encode()).digest() for shingle in shingles])
        rows = np.frombuffer(digests, dtype=np.uint8).reshape(-1, 20)
        heads = np.ascontiguousarray(rows[:, : self._precision // 8])
        return heads.view(f"<u{self._precision // 8}").astype(np.uint64)

    def _permuted(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """(a x + b) mod 2^64 mod 2^61 - 1, and its low 32 bits where so much is kept."""
        values_, spare = self._work[:, : len(values)]
        np.multiply(values, self._multipliers, out=values_)
        np.add(values_, self._offsets, out=values_)
        np.right_shift(values_, _SHIFT, out=spare)  # v mod p is (v & p) + (v >> 61), less p if over
        np.bitwise_and(values_, _PRIME, out=values_)
        np.add(values_, spare, out=values_)
        np.subtract(values_, _PRIME, out=spare)  # wraps to a huge number below p
        np.minimum(values_, spare, out=values_)
        if self._precision == 32:
            np.bitwise_and(values_, np.uint64(0xFFFFFFFF), out=values_)
        return values_

    def _check(self, step: Any) -> None:
        shingles = [f"probe {number} of signatures" for number in range(2 * _BLOCK + 3)]
        hashed = np.fromiter(map(self._hash, shingles), np.uint64).reshape(-1, 1)
        expected = np.concatenate(step.get_signature(hashed)).astype(np.uint64)
        if not np.array_equal(self.lowest(shingles), expected):
            raise MissingDependencyError(
                f"datatrove {datatrove_version()} computes MinHash signatures in another way than this "
                f"package knows; pip install datatrove==0.10.1."
            )


def _signature_step(parameters: MinhashParameters) -> Any:
    """Datatrove's step that signs, without what its constructor needs: a folder and spaCy."""
    minhash = import_datatrove("pipeline.dedup.minhash", _PURPOSE)
    hashing = import_datatrove("utils.hashing", _PURPOSE)
    try:
        hash_config = hashing.HashConfig(parameters.precision, parameters.hash_fc)
        function = hashing.create_hash_func(hash_config)
    except ImportError as error:
        raise MissingDependencyError(
            f"hash_fc is {parameters.hash_fc!r}: {error}; install it or use hash_fc sha1."
        ) from None

    class Signatures(minhash.MinhashDedupSignature):  # type: ignore[name-defined]
        def __init__(self) -> None:
            self.config = minhash.MinhashConfig(
                parameters.n_grams,
                parameters.num_buckets,
                parameters.hashes_per_bucket,
                parameters.seed,
                hash_config=hash_config,
            )
            self.num_hashes = parameters.num_buckets * parameters.hashes_per_bucket
            self._parameters = None
            self.hash_function = staticmethod(function)

    return Signatures()
