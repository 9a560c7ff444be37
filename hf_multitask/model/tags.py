"""Tags of words: the schemes in which they mark entities, and how raw ones are read.

In BIO, `B-x` begins an entity of type x, `I-x` goes on with it, and `O` is outside of any; in BIOES, `E-x` ends one of
several words and `S-x` is one of a single word.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from .labels import ClassReader
from .messages import nearest
from .words import Words

Scheme = Literal["auto", "none", "BIO", "BIOES"]
OUTSIDE = "O"
_TAG = re.compile(r"([BIES])(?:-(.+))?", re.DOTALL)
# What an entity of tags without a type is called, as in seqeval.
_NO_TYPE = "_"
_SPAN_KEYS = ("start", "end", "label")


class Entity(NamedTuple):
    """Words that are one entity: its type, its first word and the one after its last."""

    type: str
    first: int
    end: int


def parts(tag: str) -> tuple[str, str]:
    """The prefix and the type of a tag of a scheme; `O` has none."""
    match = _TAG.fullmatch(tag)
    return (match[1], match[2] or _NO_TYPE) if match else (OUTSIDE, "")


def entities(tags: Sequence[str]) -> list[Entity]:
    """The entities that tags of a row mark, as seqeval's default mode and CoNLL's script read them.

    A word goes on with the entity of the word before it if both have its type, that one may be followed (`B-`, `I-`)
    and this one may follow (`I-`, `E-`). Any other tag with a type begins an entity, `I-` too.

    Example:
        >>> entities(["B-a", "I-a", "O", "I-b"])
        [Entity(type='a', first=0, end=2), Entity(type='b', first=3, end=4)]
    """
    found: list[Entity] = []
    before = (OUTSIDE, "")
    for place, tag in enumerate(tags):
        prefix, kind = parts(tag)
        if prefix in "IE" and before[0] in "BI" and before[1] == kind:
            found[-1] = found[-1]._replace(end=place + 1)
        elif prefix != OUTSIDE:
            found.append(Entity(kind, place, place + 1))
        before = (prefix, kind)
    return found


def tag_types(labels: Sequence[str]) -> list[str]:
    """The types of entities that tags have, in their order."""
    return list(dict.fromkeys(kind for prefix, kind in map(parts, labels) if prefix != OUTSIDE))


def find_scheme(labels: Sequence[str], scheme: str) -> str:
    """The scheme of tags, `BIO`, `BIOES` or `none`, from what is configured.

    Raises:
        ValueError: The tags are not those of the scheme, or look like a scheme's and are none.
    """
    tags = [label for label in labels if label != OUTSIDE]
    others = [tag for tag in tags if not _TAG.fullmatch(tag)]
    prefixes = {prefix for prefix, _ in map(parts, tags)}
    if scheme == "auto":
        # Without types, a B may be a label of any kind: only beside I, E, S and O alone is it taken for a beginning.
        if not any(tag.startswith(("B-", "I-")) for tag in tags) and (others or "B" not in prefixes):
            return "none"
        scheme = "BIOES" if prefixes & set("ES") else "BIO"
    if scheme == "none":
        return scheme
    advice = "mend labels, or say scheme: none if each tag is a label of its own"
    if others:
        raise ValueError(f"labels has {others[0]!r} among tags of {scheme}, which is none: {advice}.")
    if OUTSIDE not in labels:
        raise ValueError(f"labels lacks {OUTSIDE!r}, the tag of words outside of entities in {scheme}: {advice}.")
    for tag in tags:
        prefix, kind = parts(tag)
        if prefix not in scheme:
            raise ValueError(f"labels has {tag!r}, and {scheme} has no {prefix}-: {advice}.")
        begin = "B" + tag[1:]
        if prefix in "IE" and begin not in tags:
            raise ValueError(
                f"labels has {tag!r} and lacks {begin!r}, by which an entity of {kind!r} begins: {advice}."
            )
    return scheme


class TagReader:
    """Reads the raw labels of rows whose words have a tag each.

    A label is a list with a tag for every word, each read as [`ClassReader`] reads labels; or, of a text, a list of
    spans, mappings with `start`, `end` (characters) and `label` (a type of entity), which begin and end where words do.

    Args:
        labels: The tags.
        scheme: As [`find_scheme`] gives it.
        label_map: From raw tags to tags.
        own_names: The dataset's own names of tags, whose values are then their numbers; None: it has none.

    Raises:
        ValueError: As for [`ClassReader`].
    """

    def __init__(
        self,
        labels: Sequence[str],
        scheme: str,
        label_map: Mapping[Any, Any] | None = None,
        own_names: Sequence[str] | None = None,
    ) -> None:
        self._labels, self._scheme = list(labels), scheme
        self._read = ClassReader(labels, label_map, own_names)

    def __call__(self, value: Any, text: Any = None) -> tuple[list[int], bool]:
        """The tags' ids, and whether they were read as ids.

        Args:
            value: The raw label.
            text: The row's text, or list of words; None: their number is not known.

        Raises:
            ValueError: The label is none; the message continues a sentence that begins with the column's name.
        """
        if value is None:
            raise ValueError("is missing.")
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"is {value!r:.100}, neither a list of tags nor one of spans.")
        if isinstance(text, str) and all(isinstance(entry, Mapping) for entry in value):
            return self._spans(value, Words.of_text(text)), False
        if isinstance(text, str):
            raise ValueError("has tags, for which the text must be a list of words: it is not known what each is of.")
        if isinstance(text, list) and len(value) != len(text):
            raise ValueError(f"has {len(value)} tag(s) for {len(text)} word(s).")
        read = [self._tag(tag, number) for number, tag in enumerate(value, 1)]
        if len({is_id for _, is_id in read}) > 1:
            raise ValueError("has names of tags and ids of tags in one row.")
        return [tag_id for tag_id, _ in read], read[0][1] if read else False

    def _tag(self, tag: Any, number: int) -> tuple[int, bool]:
        if isinstance(tag, (list, tuple, Mapping)):
            raise ValueError(f"has {tag!r:.100} as its tag {number}.")
        try:
            return self._read(tag)
        except ValueError as error:
            known = nearest(str(tag), self._labels)
            raise ValueError(f"has {tag!r} as its tag {number}, which is none of the task's; {known}") from error

    def _spans(self, spans: Sequence[Mapping[str, Any]], words: Words) -> list[int]:
        """The tags of words of which spans are the entities."""
        if self._scheme == "none":
            raise ValueError("has spans, or nothing, which tags without a scheme (BIO or BIOES) cannot say.")
        tags = [OUTSIDE] * len(words.spans)
        for span in spans:
            kind, first, end = self._entity(span, words)
            if any(tag != OUTSIDE for tag in tags[first:end]):
                raise ValueError(f"has spans that overlap, at {words.text[span['start'] : span['end']]!r:.100}.")
            tags[first:end] = self._tags_of(kind, end - first)
        return [self._labels.index(tag) for tag in tags]

    def _entity(self, span: Mapping[str, Any], words: Words) -> Entity:
        start, end, kind = (span.get(key) for key in _SPAN_KEYS)
        if not isinstance(start, int) or not isinstance(end, int) or isinstance(start, bool) or isinstance(end, bool):
            raise ValueError(f"has {dict(span)!r:.100} as a span, not a mapping with {', '.join(_SPAN_KEYS)}.")
        kinds = tag_types(self._labels)
        if kind not in kinds:
            raise ValueError(f"has {kind!r} as the label of a span; {nearest(str(kind), kinds)}")
        first = [number for number, (begin, _) in enumerate(words.spans) if begin == start]
        last = [number for number, (_, stop) in enumerate(words.spans) if stop == end]
        if not first or not last or first > last:
            near = ", ".join(repr(words.text[a:b]) for a, b in words.spans if a < end and b > start) or "none"
            raise ValueError(
                f"has a span from {start} to {end}, which does not begin and end where words do; words there: {near}."
            )
        return Entity(str(kind), first[0], last[0] + 1)

    def _tags_of(self, kind: str, count: int) -> list[str]:
        """The tags of an entity of so many words."""
        prefixes = ["B", *"I" * (count - 1)]
        if self._scheme == "BIOES":
            prefixes[-1] = "S" if count == 1 else "E"
        tags = [prefix if kind == _NO_TYPE else f"{prefix}-{kind}" for prefix in prefixes]
        for tag in tags:
            if tag not in self._labels:
                raise ValueError(f"has a {kind!r} of {count} word(s), for which the task's labels lack {tag!r}.")
        return tags
