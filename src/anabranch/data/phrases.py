"""Names of the same things in two languages, from the Unicode CLDR: short phrases with their translations.

CLDR (cldr.unicode.org) comes with the package babel: territories, languages, scripts, currencies, time zones and units.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from anabranch.errors import InputError

KINDS = ("territory", "language", "script", "currency", "zone", "unit")


@dataclass(frozen=True)
class Phrase:
    """A name in two languages, in small letters and cut into words, and what kind of thing it names."""

    source: tuple[str, ...]
    target: tuple[str, ...]
    kind: str


def cldr_phrases(target: str = "fr", source: str = "en") -> list[Phrase]:
    """All names that CLDR gives in both languages and that are not spelled alike; each pair once.

    Arguments:
        target, source: codes of the languages, as CLDR has them.

    Raises:
        InputError: if babel is missing or does not know a language.
    """
    try:
        from babel import Locale, UnknownLocaleError
    except ModuleNotFoundError as error:
        raise InputError("the names of CLDR need babel: pip install 'anabranch[data]'") from error
    try:
        left, right = Locale.parse(source), Locale.parse(target)
    except (UnknownLocaleError, ValueError) as error:
        raise InputError(f"expected codes of languages that CLDR has, like 'fr'; got {source!r}, {target!r}") from error
    found: dict[tuple[str, str], str] = {}
    names = dict(_names(right))
    for key, name in _names(left):
        pair = plain(name), plain(names.get(key, name))
        if pair[0] != pair[1]:
            found.setdefault(pair, key[0])
    return [Phrase(words(a), words(b), kind) for (a, b), kind in found.items()]


def _names(locale: Any) -> Iterator[tuple[tuple[str, ...], str]]:
    tables = (locale.territories, locale.languages, locale.scripts, locale.currencies)
    for kind, table in zip(KINDS, tables, strict=False):
        yield from (((kind, key), name) for key, name in table.items())
    for zone, forms in locale.meta_zones.items():
        yield from ((("zone", zone, form), name) for form, name in forms.get("long", {}).items())
    for unit, forms in locale.unit_display_names.items():
        if "long" in forms:
            yield ("unit", unit), forms["long"]


def plain(name: str) -> str:
    """Small letters, one kind of apostrophe."""
    return re.sub(r"[’ʼ]", "'", name).casefold().strip()


def words(phrase: str) -> tuple[str, ...]:
    """Cut a phrase into words, elided articles (``l'``) and signs."""
    return tuple(re.findall(r"\w+'|\w+(?:[-–]\w+)*|[^\w\s]", phrase))
