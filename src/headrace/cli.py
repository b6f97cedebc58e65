"""The `headrace` command: wires the commands together, shows errors in one line, and sets the exit code.

Exit codes: 0 done; 1 some input could not be read or a check failed; 2 wrong settings, nothing was done;
3 the storage failed; 4 another writer took the dataset over; 130 interrupted.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sys
from typing import Annotated, Any

import typer

from headrace.commands import (
    build,
    compact,
    connectors,
    decode,
    doctor,
    export,
    inspect,
    keep,
    own_process,
    quarantine,
    reencode,
    scaffold,
    schema,
    serve,
    streams,
    verify,
    why,
)
from headrace.schemas.errors import ConfigError, Fenced, HeadraceError, StorageError

app = typer.Typer(
    name="headrace",
    help="Any stream in, exact tokens out: build training shards from files and streams of every modality.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

EXIT_DATA, EXIT_CONFIG, EXIT_STORAGE, EXIT_FENCED, EXIT_INTERRUPTED = 1, 2, 3, 4, 130

for module in (
    build, serve, streams, inspect, decode, verify, why, quarantine, keep, compact, reencode,
    export, scaffold, schema, connectors, doctor,
):  # fmt: skip
    module.register(app)


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and debug logs.")] = False,
) -> None:
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    for noisy in ("botocore", "s3transfer", "aiobotocore", "fsspec", "asyncio", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def exit_code(error: BaseException) -> int:
    """The documented exit code of an error."""
    if isinstance(error, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    for kind, code in ((ConfigError, EXIT_CONFIG), (StorageError, EXIT_STORAGE), (Fenced, EXIT_FENCED)):
        if isinstance(error, kind) or kind.__name__ in getattr(error, "kinds", ()):
            return code
    return EXIT_DATA


def run() -> None:
    """The command as a process: `main`, then the end without tearing down libraries.

    Native threads of a codec or of Arrow that are still winding up when the interpreter goes would abort a command that
    has done its work.
    """
    code: Any = 0
    own_process.claim()
    try:
        main()
    except SystemExit as end:
        code = end.code
    if isinstance(code, str):
        sys.stderr.write(code + "\n")
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        app(given, standalone_mode=True)
    except (HeadraceError, KeyboardInterrupt) as error:
        if "--debug" in given:
            raise
        message = (
            "interrupted; run the same command again to go on" if isinstance(error, KeyboardInterrupt) else str(error)
        )
        sys.stderr.write(f"headrace: {message}\n")
        sys.exit(exit_code(error))
