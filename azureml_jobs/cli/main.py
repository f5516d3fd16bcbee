"""The command line: `meadow VERB [ARGUMENT ...] [Hydra overrides]`.

Nothing heavy is imported before the verb is known, so that `meadow --help` answers at once. Exit
statuses are those of `conf.errors`. What a file system is known to say and nobody has handled is told
by its cause; anything else that is no MeadowError is a fault of ours: its traceback is shown and the
status is 1.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence

from azureml_jobs.cli.reader import flush, nobody_reads
from conf import startup_log  # noqa: F401  # first of all: a job's age is counted from here
from conf.errors import MeadowError
from conf.files.faults import foreseen
from conf.telemetry import turn_off


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb that `argv` names (the process's arguments by default) and return the exit
    status.
    """
    turn_off()
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        return _told(_run(args))
    except MeadowError as error:
        print(describe(error), file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        nobody_reads()
        return 1
    except Exception as error:
        if (fault := foreseen(error)) is not None:
            print(describe(fault), file=sys.stderr)
            return fault.exit_status
        traceback.print_exc()
        print(f"error: unexpected {type(error).__name__}: {error}", file=sys.stderr)
        print(
            "  This is a fault in Meadow; please report it with the lines above.", file=sys.stderr
        )
        return 1


def _told(status: int) -> int:
    """Return the status of a verb that has done its work, also where nobody has read all it said."""
    try:
        # A reader that has gone is noticed here, not after the last line of this program.
        flush()
    except BrokenPipeError:
        nobody_reads()
    return status


def describe(error: MeadowError) -> str:
    """Return an error as a person reads it: the code and what happened, then what to do."""
    return f"error {error.code}: {error.message}" + (f"\n  {error.hint}" if error.hint else "")


def _run(args: list[str]) -> int:
    from azureml_jobs.cli.arguments import HELP_FLAGS, parse
    from azureml_jobs.cli.completion import CANDIDATES, answer
    from azureml_jobs.cli.help import group_help, overview, verb_help
    from azureml_jobs.cli.verbs import KEYS, VERBS, find

    if not args or args[0] in (*HELP_FLAGS, "help"):
        print(overview(VERBS))
        return 0
    if args[:2] == ["completion", CANDIDATES]:
        return answer(args[2:])
    # Hydra would answer with its own, which nobody asked for.
    verb, rest = find(["version"] if "--version" in args else args)
    if isinstance(verb, str):
        print(group_help(verb, VERBS))
        return 0
    if not verb.own_help and any(flag in rest for flag in HELP_FLAGS):
        print(verb_help(verb))
        return 0
    return verb.function()(parse(verb, rest, KEYS))


if __name__ == "__main__":
    sys.exit(main())
