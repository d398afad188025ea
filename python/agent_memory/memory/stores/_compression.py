"""Contents and vectors of long-term memory: zstd with a trained dictionary, and half precision where it is asked for.

Single messages barely compress by themselves (156 to 131 bytes); with a dictionary trained on their like they halve.
Dictionaries are kept in SQL under a number, every compressed content names the one it needs, and a dictionary is never
changed or removed. A content that would not get smaller stays as it is.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np
import zstandard

from agent_memory.memory._copy import MAX_CONTENT_BYTES, Copy, checksum_of
from agent_memory.memory.entries import Tier
from agent_memory.memory.settings import LongTermSettings

__all__ = ["F16", "F32", "PLAIN", "UNCOMPRESSED", "Compression", "Stored", "UnknownDictionaryError"]

UNCOMPRESSED: Final = -1
"""In place of a dictionary's number: the content is not compressed."""
PLAIN: Final = 0
"""In place of a dictionary's number: zstd without a dictionary."""
F32: Final = 0
F16: Final = 1

MIN_COMPRESSED_BYTES: Final = 64
"""Contents shorter than this stay as they are."""
MIN_PLAIN_BYTES: Final = 512
"""The same while there is no dictionary, without which short texts do not get smaller."""
DICTIONARY_SAMPLES: Final = 20_000
"""The most contents a dictionary is trained on."""
MIN_DICTIONARY_SAMPLES: Final = 1_000
"""No dictionary is trained on fewer contents than this."""


class UnknownDictionaryError(LookupError):
    """A content names a dictionary that was trained since the dictionaries were read: read them again."""


class Stored(NamedTuple):
    """The bytes of a copy as SQL keeps them."""

    content: bytes
    dictionary: int
    vector: bytes
    element: int
    checksum: int


class Compression:
    """Packs and unpacks. Any thread may use it: zstd's contexts are per thread, the dictionaries are shared."""

    def __init__(self, settings: LongTermSettings) -> None:
        self._settings = settings
        self._dictionaries: dict[int, zstandard.ZstdCompressionDict] = {}
        self._newest = PLAIN
        self._contexts = threading.local()

    @property
    def newest(self) -> int:
        """The number of the dictionary that new contents are packed with; 0: none yet."""
        return self._newest

    def __len__(self) -> int:
        return len(self._dictionaries)

    def add(self, dictionaries: Iterable[tuple[int, bytes]]) -> None:
        """Makes dictionaries known; the one with the greatest number is used from now on."""
        for number, data in dictionaries:
            if number not in self._dictionaries:
                dictionary = zstandard.ZstdCompressionDict(data)
                if self._settings.compression_level:
                    dictionary.precompute_compress(level=self._settings.compression_level)
                self._dictionaries[number] = dictionary
            self._newest = max(self._newest, number)

    def train(self, samples: Sequence[bytes]) -> bytes | None:
        """A dictionary for contents like these; None where zstd finds nothing that they have in common."""
        # zstd wants samples that are about a hundred times the dictionary.
        size = min(self._settings.dictionary_bytes, max(1_024, sum(map(len, samples)) // 20))
        try:
            return zstandard.train_dictionary(
                size, list(samples), level=self._settings.compression_level or 3
            ).as_bytes()
        except zstandard.ZstdError:
            return None

    def pack(self, copy: Copy) -> Stored:
        """A copy's bytes as its tier has them."""
        if copy.tier != Tier.LTM or copy.deleted:
            return Stored(copy.content, UNCOMPRESSED, copy.vector, F32, copy.checksum)
        content, dictionary = self._compress(copy.content)
        if self._settings.vectors == "f32" or len(copy.vector) < 2:
            return Stored(content, dictionary, copy.vector, F32, copy.checksum)
        with np.errstate(over="ignore"):
            halves = np.frombuffer(copy.vector, dtype="<f4").astype("<f2")
        if not np.isfinite(halves).all():  # beyond half precision's range: keep what is there
            return Stored(content, dictionary, copy.vector, F32, copy.checksum)
        rounded = copy._replace(vector=halves.astype("<f4").tobytes())
        return Stored(content, dictionary, halves.tobytes(), F16, checksum_of(rounded))

    @property
    def keeps_vectors(self) -> bool:
        """Whether long-term memory has its vectors as they were."""
        return self._settings.vectors == "f32"

    @property
    def least_bytes(self) -> int:
        """The shortest content that is compressed, with the dictionaries known now."""
        if not self._settings.compression_level:
            return MAX_CONTENT_BYTES + 1
        return MIN_COMPRESSED_BYTES if self._newest else MIN_PLAIN_BYTES

    def pack_content(self, content: bytes) -> tuple[bytes, int]:
        """A content as long-term memory has it, and its dictionary's number."""
        return self._compress(content)

    def unpack_content(self, content: bytes, dictionary: int) -> bytes:
        """The content as it was; raises UnknownDictionaryError, or ValueError where it is damaged."""
        if dictionary == UNCOMPRESSED:
            return content
        decompressors: dict[int, zstandard.ZstdDecompressor] | None = getattr(self._contexts, "decompressors", None)
        if decompressors is None:
            decompressors = self._contexts.decompressors = {}
        decompressor = decompressors.get(dictionary)
        if decompressor is None:
            data = self._dictionary(dictionary)
            decompressor = decompressors[dictionary] = zstandard.ZstdDecompressor(dict_data=data)
        try:
            return decompressor.decompress(content, max_output_size=MAX_CONTENT_BYTES)
        except zstandard.ZstdError:
            raise ValueError("the compressed content is damaged") from None

    def unpack_all(self, contents: Iterable[tuple[bytes, int]]) -> list[bytes]:
        """The contents of (content, dictionary) as they were; damaged ones are left out. Raises UnknownDictionaryError."""
        unpacked = []
        for content, dictionary in contents:
            try:
                unpacked.append(self.unpack_content(content, dictionary))
            except ValueError:
                continue  # reading it raises
        return unpacked

    @staticmethod
    def unpack_vector(vector: bytes, element: int) -> bytes:
        """The vector as float32, little endian."""
        return vector if element == F32 else np.frombuffer(vector, dtype="<f2").astype("<f4").tobytes()

    def _compress(self, content: bytes) -> tuple[bytes, int]:
        settings = self._settings
        number = self._newest
        if len(content) < self.least_bytes:
            return content, UNCOMPRESSED
        if getattr(self._contexts, "compressor_number", None) != number:
            self._contexts.compressor = zstandard.ZstdCompressor(
                level=settings.compression_level,
                dict_data=self._dictionary(number),
                # The row has a checksum, and the dictionary's number stands in a column of its own.
                write_checksum=False,
                write_dict_id=False,
            )
            self._contexts.compressor_number = number
        packed: bytes = self._contexts.compressor.compress(content)
        return (packed, number) if len(packed) < len(content) else (content, UNCOMPRESSED)

    def _dictionary(self, number: int) -> zstandard.ZstdCompressionDict | None:
        if number == PLAIN:
            return None
        dictionary = self._dictionaries.get(number)
        if dictionary is None:
            raise UnknownDictionaryError(number)
        return dictionary
