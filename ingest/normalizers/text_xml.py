"""The text of an XML document, without its markup.

Elements that stand beside each other give lines of their own; an element inside running text (`<hi>` in a sentence)
stays in its line, and so do words it splits. The white space around each line is dropped, that inside it kept.
Attributes, comments and processing instructions are no text.

Nothing outside the document is ever read, and no entity is expanded that could grow: an external entity is refused
where it is used, an internal one may stand for a few characters and not for others. A name that only an absent DTD
would define is taken from HTML's list of characters, else it is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.entities import html5
from typing import Any
from xml.parsers import expat

from headrace.ingest.normalizers.text_encoding import checked_encoding, decode
from headrace.schemas.errors import RecordError

_MAX_ENTITY_CHARS = 64
_SPACE = " \t\n\r"
_LINE_BREAKS = frozenset({"br", "lb"})
_CHUNK = 1 << 20
_ENDS = (
    expat.errors.XML_ERROR_NO_ELEMENTS,
    expat.errors.XML_ERROR_UNCLOSED_TOKEN,
    expat.errors.XML_ERROR_UNCLOSED_CDATA_SECTION,
)
_DECLARED = re.compile(rb"\s*<\?xml[^>]{0,200}?\sencoding\s*=\s*[\"']([A-Za-z0-9._:-]{1,40})[\"']")


@dataclass(frozen=True, slots=True)
class MarkupText:
    """The text of a marked-up document."""

    text: str
    language: str | None = None  #: of the root element
    title: str | None = None
    transforms: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)


def xml_text(data: bytes, encoding: str | None) -> MarkupText:
    """The text of an XML document. A byte order mark, else `encoding`, else the XML declaration says how it is spelled.

    Raises: RecordError `truncated`, `corrupt`, `bad_encoding`, `external_reference`, `bomb`, `empty`.
    """
    decoded = decode(data, encoding or _declared(data))
    if decoded.torn_at is not None:
        raise RecordError("truncated", f"the document ends inside the character at byte {decoded.torn_at}")
    collector = _Collector()
    parser = expat.ParserCreate("utf-8")  # whatever the declaration says: this is what it gets
    parser.buffer_text = True
    parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)
    parser.StartElementHandler = collector.start
    parser.EndElementHandler = collector.end
    parser.CharacterDataHandler = collector.characters
    parser.EntityDeclHandler = collector.entity_declared
    parser.ExternalEntityRefHandler = collector.external_entity
    parser.SkippedEntityHandler = collector.skipped_entity
    utf8 = decoded.text.encode() if decoded.transforms else data
    try:
        for at in range(0, len(utf8), _CHUNK):
            parser.Parse(utf8[at : at + _CHUNK], False)
        parser.Parse(b"", True)
    except expat.ExpatError as exc:
        raise _translated(exc) from exc
    text = collector.text()
    if not text:
        raise RecordError("empty", "no element of the document holds text")
    return MarkupText(text, collector.language, None, [*decoded.transforms, "text of xml"])


def _declared(data: bytes) -> str | None:
    """The encoding of the XML declaration. Raises: RecordError `bad_encoding` for one that Python does not know."""
    match = _DECLARED.match(data)
    if match is None:
        return None
    try:
        return checked_encoding(match[1].decode())
    except ValueError as exc:
        raise RecordError("bad_encoding", f"the XML declaration: {exc}") from exc


def _translated(exc: expat.ExpatError) -> RecordError:
    message = f"not well-formed at line {exc.lineno}, column {exc.offset}: {expat.ErrorString(exc.code)}"
    if expat.errors.messages.get(exc.code) in _ENDS:
        return RecordError("truncated", f"the document ends before its root element does: {message}")
    # 43: XML_ERROR_AMPLIFICATION_LIMIT_BREACH of expat 2.4, which older Pythons have no name for
    return RecordError("bomb" if exc.code == 43 else "corrupt", message)


class _Collector:
    """Gathers lines. `running` says, for each open element, whether text has begun in it and its line is still open."""

    def __init__(self) -> None:
        self.language: str | None = None
        self._lines: list[str] = []
        self._line: list[str] = []
        self._running: list[bool] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if not self._running:
            self.language = attributes.get("xml:lang")
        elif not self._running[-1] or name.rpartition(":")[2] in _LINE_BREAKS:
            self._break()
        self._running.append(False)

    def end(self, name: str) -> None:
        running = self._running.pop()
        if self._running and not self._running[-1] and not running:
            self._break()

    def characters(self, text: str) -> None:
        self._line.append(text)
        if self._running and not self._running[-1] and text.strip(_SPACE):
            self._running[-1] = True

    def entity_declared(
        self, name: str, is_parameter: int, value: str | None, base: Any, system: Any, public: Any, notation: Any
    ) -> None:
        if value is None or is_parameter:
            return  # an external one: refused where it is used
        if len(value) > _MAX_ENTITY_CHARS or "&" in value or "%" in value:
            allowed = f"{_MAX_ENTITY_CHARS} characters without references"
            raise RecordError("bomb", f"the entity `{name}` stands for more than {allowed}")

    def external_entity(self, context: Any, base: Any, system: str | None, public: Any) -> int:
        raise RecordError("external_reference", f"the document refers to {system!r:.120} outside of it")

    def skipped_entity(self, name: str, is_parameter: int) -> None:
        if is_parameter:
            return
        character = html5.get(f"{name};")
        if character is None:
            raise RecordError("external_reference", f"the entity `{name}` is defined in a DTD outside the document")
        self.characters(character)

    def _break(self) -> None:
        if self._line:
            line = "".join(self._line).strip(_SPACE)
            self._line.clear()
            if line:
                self._lines.append(line)

    def text(self) -> str:
        self._break()
        return "\n".join(self._lines)
