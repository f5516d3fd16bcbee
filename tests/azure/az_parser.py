"""Parses `az` commands with the real CLI and runs none of them; started with the Python that has azure-cli.

Reads a command a line, writes `ok` or why it is refused. Nobody is signed in, and nothing is asked of anybody.
"""

from __future__ import annotations

import contextlib
import io
import shlex
import sys


def refusal(line: str) -> str:
    """Return why the CLI does not take a command; empty where it does."""
    from azure.cli.core import get_default_cli

    cli = get_default_cli()
    words = shlex.split(line)[1:]
    invocation = cli.invocation_cls(
        cli_ctx=cli,
        parser_cls=cli.parser_cls,
        commands_loader_cls=cli.commands_loader_cls,
        help_cls=cli.help_cls,
    )
    cli.invocation = invocation
    invocation.commands_loader.load_command_table(words)
    command = invocation._rudimentary_get_command(words)
    table = invocation.commands_loader.command_table
    if command in table:
        invocation.commands_loader.command_table = {command: table[command]}
    # Some commands' arguments have other names in this command than in the others of their group: the
    # CLI goes by this string, which is the command without its arguments.
    invocation.data["command_string"] = command
    invocation.commands_loader.command_name = command
    invocation.commands_loader.load_arguments(command)
    invocation.parser.cli_ctx = cli
    invocation.parser.load_command_table(invocation.commands_loader)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            invocation.parser.parse_args(words)
    except SystemExit:
        return " ".join(said.getvalue().split())[:300] or "refused"
    return ""


if __name__ == "__main__":
    for command in sys.stdin:
        print(refusal(command.strip()) or "ok", flush=True)
