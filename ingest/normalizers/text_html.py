"""The visible text of an HTML page, laid out as a browser's `innerText` would give it.

A small scanner rather than `html.parser`, whose time grows with the square of some malformed pages; this one passes
over each character a bounded number of times. It follows the tokenizer of the HTML standard where that decides what is
text (comments, raw text of scripts and styles, quoted attributes) and leaves out what needs a style sheet or a script:
hidden elements stay, and what a script would write is absent.
"""

from __future__ import annotations

import html
import re

from headrace.ingest.normalizers.text_encoding import checked_encoding, decode, spelling
from headrace.ingest.normalizers.text_xml import MarkupText
from headrace.schemas.errors import RecordError

#: Elements whose content is no visible text. The first group is raw text for the tokenizer, the second is a subtree.
_RAW = frozenset({"script", "style", "xmp", "iframe", "noembed", "noframes"})
_HIDDEN = frozenset({"noscript", "template", "svg", "math", "audio", "video", "canvas", "datalist"})
_PARAGRAPHS = frozenset(
    ("p", "h1", "h2", "h3", "h4", "h5", "h6", "blockquote", "pre", "table", "ul", "ol", "dl", "figure")
)
_BLOCKS = frozenset({
    *_PARAGRAPHS,
    "address", "article", "aside", "body", "caption", "center", "dd", "details", "dialog", "dir", "div", "dt",
    "fieldset", "figcaption", "footer", "form", "frameset", "header", "hgroup", "hr", "html", "legend", "li", "main",
    "menu", "nav", "optgroup", "option", "search", "section", "summary", "tbody", "tfoot", "thead", "tr",
})  # fmt: skip
_CELLS = frozenset({"td", "th"})

_NAME = re.compile(r"[A-Za-z][^\s/>]*")
_GAP = re.compile(r"[\s/]*")
_ATTRIBUTE = re.compile(r"=?[^\s/>=]*")
_EQUALS = re.compile(r"\s*=\s*")
_UNQUOTED = re.compile(r"[^\s>]*")
_SPACES = re.compile(r"[ \t\n\r\f]+")
_META_CHARSET = re.compile(rb"<meta[^>]{0,400}?charset\s*=\s*[\"']?\s*([A-Za-z0-9._:-]{1,40})", re.IGNORECASE)
_TYPE_CHARSET = re.compile(r"charset\s*=\s*[\"']?([A-Za-z0-9._:-]{1,40})", re.IGNORECASE)
#: What pages call Latin-1 and ASCII is Windows-1252 (https://encoding.spec.whatwg.org/#names-and-labels).
_WEB_NAMES = {"iso8859-1": "cp1252", "ascii": "cp1252", "iso8859-9": "cp1254", "gb2312": "gb18030", "gbk": "gb18030"}


def html_text(data: bytes, encoding: str | None, media_type: str | None) -> MarkupText:
    """The visible text of a page; a byte order mark, else `encoding`, else media type or page say how it is spelled.

    Raises: RecordError `bad_encoding`, `empty`.
    """
    decoded = decode(data, encoding or _declared(data, media_type))
    page = _Page()
    page.read(decoded.text)
    text = page.layout.text()
    if not text:
        raise RecordError("empty", "the page has no visible text")
    flags = ["unclosed_markup"] if page.unclosed else []
    if decoded.torn_at is not None:
        flags.append("truncated")
    return MarkupText(text, page.language, page.title, [*decoded.transforms, "visible text of html"], flags)


def _declared(data: bytes, media_type: str | None) -> str | None:
    """The encoding by HTTP header or `<meta>`; a label that nobody knows counts as none, as in browsers."""
    if spelling(data[:4], None)[1]:
        return None
    found = _TYPE_CHARSET.search(media_type or "")
    meta = None if found else _META_CHARSET.search(data, 0, 4096)
    label = found[1] if found else meta[1].decode() if meta else None
    if label is None:
        return None
    try:
        name = checked_encoding(label)
    except ValueError:
        return None
    if name.startswith("utf-16"):
        name = "utf-8"  # a page that could be read this far is not UTF-16; the standard says so too
    return _WEB_NAMES.get(name, name)


class _Layout:
    """Lines as `innerText` makes them: white space collapses, blocks begin lines, a blank one sets paragraphs off."""

    def __init__(self) -> None:
        self._out: list[str] = []
        self._breaks = 0  # line breaks owed before the next text
        self._tab = False  # the end of a table cell, if another one of its row comes
        self._space = False  # a collapsed space owed before it
        self.preformatted = 0

    def words(self, text: str) -> None:
        if self.preformatted:
            if text:
                self._flush()
                self._out.append(text.replace("\r\n", "\n").replace("\r", "\n"))
            return
        text = _SPACES.sub(" ", text)
        if not text:
            return
        leads, trails = text[0] == " ", text[-1] == " "
        text = text.strip(" ")
        self._space = self._space or leads
        if text:
            self._flush()
            self._out.append(text)
            self._space = trails
        elif trails:
            self._space = True

    def _flush(self) -> None:
        if self._breaks:
            if self._out:
                self._out.append("\n" * self._breaks)
        elif self._tab:
            self._out.append("\t")
        elif self._space and self._out and self._out[-1][-1:] not in ("\n", "\t"):
            self._out.append(" ")
        self._breaks = 0
        self._tab = self._space = False

    def block(self, lines: int) -> None:
        """At least so many line breaks before the next text."""
        self._breaks = max(self._breaks, lines)
        self._space = False

    def line_break(self) -> None:
        if self._out or self._breaks:
            self._breaks += 1
        self._space = False

    def tab(self) -> None:
        """A table cell ends; the next one of the row is a tab away."""
        self._tab = bool(self._out) and not self._breaks
        self._space = False

    def text(self) -> str:
        return "".join(self._out).strip(" \t\n\r")


class _Page:
    def __init__(self) -> None:
        self.layout = _Layout()
        self.language: str | None = None
        self.title: str | None = None
        self.unclosed = False  #: a comment or a tag reached to the end of the page, and swallowed what was in it
        self._never_closed: set[str] = set()  # names whose end tag is known not to come any more

    def read(self, source: str) -> None:
        at = 0
        while True:
            mark = source.find("<", at)
            if mark < 0:
                self.layout.words(html.unescape(source[at:]))
                return
            if mark > at:
                self.layout.words(html.unescape(source[at:mark]))
            at = self._markup(source, mark)
            if at < 0:
                self.unclosed = True
                return

    def _markup(self, source: str, mark: int) -> int:
        """The place behind what begins with the `<` at `mark`; -1 if that reaches to the end of the page."""
        second = source[mark + 1 : mark + 2]
        if second.isascii() and second.isalpha():
            return self._start_tag(source, mark + 1)
        if second == "/":
            name = _NAME.match(source, mark + 2)
            if name:
                self._close(name[0].lower())
                return _attributes(source, name.end())[0]
            return _past(source, ">", mark + 2)
        if source.startswith("<!--", mark):
            if source.startswith((">", "->"), mark + 4):
                return source.index(">", mark) + 1
            return _past(source, "-->", mark + 4)
        if second in ("!", "?"):
            return _past(source, ">", mark + 2)
        self.layout.words("<")
        return mark + 1

    def _start_tag(self, source: str, at: int) -> int:
        match = _NAME.match(source, at)
        assert match is not None
        name = match[0].lower()
        end, attributes = _attributes(source, match.end())
        if end < 0:
            return end
        if name == "html" and self.language is None:
            self.language = attributes.get("lang") or attributes.get("xml:lang")
        if name in ("title", "textarea"):
            content, end = self._content(source, end, name)
            if name == "title" and self.title is None:
                self.title = " ".join(html.unescape(content).split()) or None
            return end
        if name in _RAW:
            return self._content(source, end, name)[1]
        if name in _HIDDEN and source[end - 2 : end] != "/>":
            behind = self._content(source, end, name)[1]
            return end if behind < 0 else behind  # never closed: rather too much text than none
        self._open(name)
        return end

    def _content(self, source: str, at: int, name: str) -> tuple[str, int]:
        """(content, place behind the end tag) of an element; that place is -1 if it is never closed."""
        if name not in self._never_closed:
            match = re.compile(f"</{name}(?=[\\s/>])", re.IGNORECASE).search(source, at)
            if match:
                return source[at : match.start()], _attributes(source, match.end())[0]
            self._never_closed.add(name)
        return "", -1

    def _open(self, name: str) -> None:
        layout = self.layout
        if name == "br":
            layout.line_break()
        elif name in _BLOCKS:
            layout.block(2 if name in _PARAGRAPHS else 1)
        if name == "pre":
            layout.preformatted += 1

    def _close(self, name: str) -> None:
        layout = self.layout
        if name == "pre":
            layout.preformatted = max(0, layout.preformatted - 1)
        if name in _BLOCKS:
            layout.block(2 if name in _PARAGRAPHS else 1)
        elif name in _CELLS:
            layout.tab()


def _past(source: str, mark: str, at: int) -> int:
    found = source.find(mark, at)
    return found if found < 0 else found + len(mark)


def _attributes(source: str, at: int) -> tuple[int, dict[str, str]]:
    """(place behind the tag's `>`, or -1 if the page ends before it; attributes).

    Source: https://html.spec.whatwg.org/#before-attribute-name-state and the states that follow it.
    """
    found: dict[str, str] = {}
    size = len(source)
    while True:
        at = _end(_GAP, source, at)
        if at >= size:
            return -1, found
        if source[at] == ">":
            return at + 1, found
        end = _end(_ATTRIBUTE, source, at)
        name, at = source[at:end].lower(), end
        value = ""
        equals = _EQUALS.match(source, at)
        if equals:
            at = equals.end()
            quote = source[at : at + 1]
            if quote in ('"', "'") and quote:
                close = source.find(quote, at + 1)
                if close < 0:
                    return -1, found
                value, at = source[at + 1 : close], close + 1
            else:
                end = _end(_UNQUOTED, source, at)
                value, at = source[at:end], end
        found.setdefault(name, html.unescape(value))


def _end(pattern: re.Pattern[str], source: str, at: int) -> int:
    match = pattern.match(source, at)
    return match.end() if match else at
