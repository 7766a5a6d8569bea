"""The command line: ``anabranch compare``, ``verify``, ``list``, ``search``, ``show`` and ``slots``."""

import sys

import typer

from anabranch.cli import _catalog, _compare, _verify
from anabranch.errors import InputError

app = typer.Typer(
    name="anabranch",
    help="Neural-network papers as interchangeable parts, runnable claims, and fair races on your own data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("compare")(_compare.compare)
app.command("verify")(_verify.verify)
app.command("list")(_catalog.list_papers)
app.command("search")(_catalog.search)
app.command("show")(_catalog.show)
app.command("slots")(_catalog.slots)


def main() -> None:
    """Run the command line; bad input ends with one line on standard error and status 2."""
    try:
        app()
    except InputError as error:
        print(f"anabranch: {error}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as end:
        if end.code == 130:  # Typer turns Ctrl-C into this without a word
            print("anabranch: interrupted", file=sys.stderr)
        raise
    except BrokenPipeError:  # a reader such as `head` has seen enough
        sys.stderr.close()
        sys.exit(0)
