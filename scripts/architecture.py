"""Writes the file table of docs/architecture.md from the first docstring line of every Python file.

    python scripts/architecture.py --write     write the table between the markers
    python scripts/architecture.py --check     say what differs and end with 1 if anything does

What a file is for is said once, in its own docstring; the page only collects it.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import os
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = REPOSITORY / "docs" / "architecture.md"
BEGIN = "<!-- files: written by scripts/architecture.py --write -->"
END = "<!-- /files -->"
GENERATED = {"build", "dist", "demo-out", "out", "__pycache__"}

#: Folders in the order of the flow, with the heading of each; what is not listed follows in alphabetical order.
HEADINGS = {
    "schemas": "what data looks like",
    "connectors": "where bytes come from",
    "ingest": "the engine",
    "ingest/normalizers": "from items to records",
    "tokenizers": "from records to tokens and back",
    "shards": "what trainers consume",
    "shards/loader": "datasets as training batches",
    "shards/exports": "datasets in the formats of others",
    "src/headrace": "the public names and the command line",
    "benchmarks": "measured work",
    "benchmarks/loader_peers": "the loaders that ours is measured with",
    "benchmarks/peers": "the tools that headrace is measured with",
    "deploy": "running it on clusters",
    "examples": "runnable pipelines",
    "scripts": "chores of this repository",
    "tests": "proofs",
}


def python_files(root: Path) -> list[str]:
    """Every Python file under `root` by its own path (never through a link), sorted; generated folders left out."""
    found = []
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = sorted(
            name
            for name in subfolders
            if not name.startswith(".")
            and name not in GENERATED
            and not name.endswith(".egg-info")
            and not os.path.islink(os.path.join(folder, name))
        )
        found += [Path(folder, name).relative_to(root).as_posix() for name in files if name.endswith(".py")]
    return sorted(found)


def first_line(path: Path) -> str:
    """The first line of a file's docstring, without its full stop; empty if it has none."""
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return doc.partition("\n")[0].strip().removesuffix(".")


def table(root: Path) -> str:
    """The file lists, one heading per folder, with a line per file."""
    folders: dict[str, list[str]] = {}
    for name in python_files(root):
        folders.setdefault(name.rpartition("/")[0], []).append(name)
    order = list(HEADINGS)

    def place(folder: str) -> tuple[int, str]:
        top = folder.split("/")[0]
        for key in (folder, top):
            if key in order:
                return order.index(key), folder
        return len(order), folder

    lines: list[str] = []
    for folder in sorted(folders, key=place):
        heading = HEADINGS.get(folder)
        lines += [f"### `{folder or '.'}/`" + (f": {heading}" if heading else ""), ""]
        lines += [f"- `{Path(name).name}`: {first_line(root / name)}" for name in folders[folder]]
        lines.append("")
    return "\n".join(lines)


def with_table(page: str, files: str) -> str:
    """The page with the text between its markers replaced. Raises: ValueError if a marker is missing."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page needs the two markers {BEGIN} and {END}")
    return f"{head}{BEGIN}\n\n{files}\n{END}{tail}"


def main() -> int:
    parser = argparse.ArgumentParser(description="The file table of docs/architecture.md.")
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("--write", action="store_true")
    choice.add_argument("--check", action="store_true")
    arguments = parser.parse_args()

    page = PAGE.read_text(encoding="utf-8")
    wanted = with_table(page, table(REPOSITORY))
    if arguments.write:
        PAGE.write_text(wanted, encoding="utf-8")
        return 0
    difference = list(
        difflib.unified_diff(
            page.splitlines(), wanted.splitlines(), "docs/architecture.md", "the tree", lineterm="", n=0
        )
    )
    print("\n".join(difference))
    return 1 if difference else 0


if __name__ == "__main__":
    sys.exit(main())
