"""Globs over ids with `/` between their parts, the same on every system.

*      any characters of one name, also a leading dot     ?      one of them     [abc]  one of a set, [!abc] none of it
**/    any folders, or none                                **     at the end: everything below    {a,b}  either
"""

from __future__ import annotations

import re

from headrace.schemas.errors import ConfigError


class PathGlob:
    """A compiled glob. Raises: ConfigError for one that cannot be meant."""

    def __init__(self, pattern: str) -> None:
        if not pattern or pattern.startswith("/") or ".." in pattern.split("/"):
            raise ConfigError("a glob is a path below the root, such as **/*.jsonl", field="glob", value=pattern)
        self._regex = re.compile(_translate(pattern.removeprefix("./")))

    def matches(self, id: str) -> bool:
        """Whether the whole id matches."""
        return self._regex.fullmatch(id) is not None


def _translate(pattern: str) -> str:
    out, at, depth = [], 0, 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "*":
            if pattern.startswith("*/", at) and (at == 1 or pattern[at - 2] == "/"):
                out.append("(?:[^/]+/)*")
                at += 2
            elif pattern.startswith("*", at):
                out.append(".*")
                at += 1
            else:
                out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        elif char == "[" and (end := pattern.find("]", at + 1)) > 0:
            inner = pattern[at:end].replace("\\", "\\\\").replace("[", "\\[")
            out.append(f"(?!/)[{'^' + inner[1:] if inner.startswith('!') else inner}]")
            at = end + 1
        elif char == "{" and "}" in pattern[at:]:
            out.append("(?:")
            depth += 1
        elif char == "}" and depth:
            out.append(")")
            depth -= 1
        elif char == "," and depth:
            out.append("|")
        else:
            out.append(re.escape(char))
    if depth:
        raise ConfigError("a { in a glob that is not closed", field="glob", value=pattern)
    return "".join(out)
