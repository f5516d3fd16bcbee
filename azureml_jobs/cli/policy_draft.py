"""`meadow policy draft`: write the policy that allows a run as it is, for a silo's owner to read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

from azureml_jobs.cli.arguments import Arguments
from azureml_jobs.cli.drafted_file import write_drafted

PLAIN: Final = re.compile(r"[A-Za-z_][\w.]*", re.ASCII)
HEAD: Final = """# A policy that allows the run {run} as it is, with fewer rounds too, and nothing else.
# Read each line before you use it: a key that has no line here is refused, whatever its value.
#   [1, 2]                          any of these values
#   {{at_least: 0.001, at_most: 0.1}} a range
# Use: meadow launch client silo=NAME silo.file=THIS_FILE ..., or put `policy` below
# federation.silos.NAME. What it does not limit: docs/federation.md.
"""


def draft_policy(arguments: Arguments) -> int:
    """Write the policy that allows a run; raises ConfigError MDW-127 where the file is there."""
    from conf.allowed import ALLOW_LIST, draft
    from conf.resume import folder_of, stored

    folder = folder_of(arguments.get("run"))
    rules = draft(stored(folder))
    file = Path(arguments.get("file", f"policy-{folder.resolve().name}.yaml"))
    lines = [
        HEAD.format(run=folder.resolve().name),
        "policy:",
        f"  version: {ALLOW_LIST}",
        "  allow:",
    ]
    lines += [_line(key, rule) for key, rule in rules.items()]
    write_drafted(file, lines)
    print(f"wrote {file}: {len(rules)} keys; read it before you use it")
    return 0


def _line(key: str, rule: Any) -> str:
    # JSON is YAML, and quotes every text: `1e-3` or `on` stays what it is.
    name = key if PLAIN.fullmatch(key) else json.dumps(key)
    return f"    {name}: {json.dumps(rule)}"
