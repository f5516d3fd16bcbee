"""The command line: `meadow <verb> [Hydra overrides]`.

Nothing heavy is imported before the verb is known, so that `meadow --help` answers at once. Exit statuses are those
of `conf.errors`; anything that is no MeadowError is a fault of ours: its traceback is shown and the status is 1.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

from conf import startup_log  # noqa: F401  # first of all: a job's age is counted from here
from conf.errors import ConfigError, MeadowError
from conf.telemetry import turn_off

USAGE = """meadow <verb> [group=option | key=value ...] [flags]

{verbs}

meadow <verb> --help says more about a verb.
Documentation: docs/, the codes of errors: docs/errors.md."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb that `argv` names (the process's arguments by default) and return the exit status."""
    turn_off()
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(args)
    except MeadowError as error:
        print(describe(error), file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # what is left to flush at exit has no reader
        return 1
    except Exception as error:
        traceback.print_exc()
        print(f"error: unexpected {type(error).__name__}: {error}", file=sys.stderr)
        print(
            "  This is a fault in Meadow; please report it with the lines above.", file=sys.stderr
        )
        return 1


def describe(error: MeadowError) -> str:
    """Return an error as a person reads it: the code and what happened, then what to do."""
    return f"error {error.code}: {error.message}" + (f"\n  {error.hint}" if error.hint else "")


def _run(args: list[str]) -> int:
    from azureml_jobs.cli.verbs import VERBS

    if not args or args[0] in ("-h", "--help", "help"):
        width = max(map(len, VERBS))
        print(
            USAGE.format(
                verbs="\n".join(f"  {name:{width}}  {verb.summary}" for name, verb in VERBS.items())
            )
        )
        return 0
    name, rest = ("version" if args[0] == "--version" else args[0]), args[1:]
    if name not in VERBS:
        from conf.schema_keys import nearest

        raise ConfigError("MDW-110", f"There is no verb '{name}'.", nearest(name, VERBS))
    return VERBS[name].run(rest)


if __name__ == "__main__":
    sys.exit(main())
