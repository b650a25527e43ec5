"""The filters by the names that recipes use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from .base import Filter, Options
from .dclm import DclmFilter, DclmOptions
from .decontamination import DecontaminationFilter, DecontaminationOptions
from .duplicates import DuplicatesFilter, DuplicatesOptions
from .language import LanguageFilter, LanguageOptions
from .length import LengthFilter, LengthOptions
from .licence import LicenceFilter, LicenceOptions
from .parsing import ParsingFilter, ParsingOptions
from .personal import PersonalFilter, PersonalOptions
from .repetition import RepetitionFilter, RepetitionOptions


@dataclass(frozen=True)
class FilterKind:
    """What a name stands for."""

    options: type[Options]
    build: Callable[[Any], Filter]  # takes such options


_KINDS: tuple[tuple[type[Options], type[Filter]], ...] = (
    (LengthOptions, LengthFilter),
    (DclmOptions, DclmFilter),
    (LanguageOptions, LanguageFilter),
    (LicenceOptions, LicenceFilter),
    (RepetitionOptions, RepetitionFilter),
    (PersonalOptions, PersonalFilter),
    (ParsingOptions, ParsingFilter),
    (DecontaminationOptions, DecontaminationFilter),
    (DuplicatesOptions, DuplicatesFilter),
)
FILTERS: Mapping[str, FilterKind] = MappingProxyType(
    {build.name: FilterKind(options, build) for options, build in _KINDS}
)
