"""`minddpg watch`: the report of a run that is still training, in a browser."""

from __future__ import annotations

import argparse

from .options import Commands, fail, whole


def add(commands: Commands) -> None:
    """Register the command."""
    watch = commands.add_parser(
        "watch",
        help="show a run that is still training in a browser",
        description="Serve the report of a run (see 'minddpg gradflow DIR --report'), made anew as its files grow: on "
        "this machine alone (127.0.0.1), without writing anything, until Ctrl-C (needs the extra plot).",
    )
    watch.add_argument("directory", metavar="DIR", help="run directory, as 'minddpg train' writes it")
    watch.add_argument("--port", type=whole, default=0, metavar="N", help="default: a free one")
    watch.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted."""
    if args.port > 65535:
        fail(f"--port {args.port} is no port; give 0 (a free one) to 65535")

    from ..gradflow.serving import HOST, Pages, check_run, make_server

    check_run(args.directory)
    try:
        server = make_server(Pages(args.directory), args.port)
    except OSError as error:
        fail(f"cannot listen on port {args.port}: {error.strerror or error}; give another --port, or none")
    with server:
        print(f"{args.directory}: http://{HOST}:{server.server_port}/ (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt as interrupted:
            if hasattr(interrupted, "number"):  # SIGTERM, SIGHUP: see cli/__init__.py
                raise
    print("\nno longer served")
    return 0
