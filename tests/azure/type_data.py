"""Azure's own type data, as `azmcp` (the Azure MCP server, PyPI: msmcp-azure) carries it, as a check of bodies.

It runs offline and asks nobody. It holds names, types, enumerations, patterns and discriminators; it does not
know what the service makes of a value.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

PLAIN = {"string": str, "int": int, "bool": bool, "any": object}


def program() -> str | None:
    """Return where `azmcp` is: what MEADOW_AZMCP names, else on the path; None where it is not installed."""
    return os.environ.get("MEADOW_AZMCP") or shutil.which("azmcp")


@dataclass(frozen=True)
class Types:
    """The types of one kind of resource, by their names."""

    body: dict[str, Any]
    by_name: dict[str, dict[str, Any]]

    @staticmethod
    def of(resource: str, azmcp: str) -> Types:
        """Return the types of a kind such as `Microsoft.KeyVault/vaults`."""
        quiet = {
            "AZURE_MCP_COLLECT_TELEMETRY": "false",
            "DOTNET_SYSTEM_GLOBALIZATION_INVARIANT": "1",
            # Nothing may be asked of anybody.
            "HTTPS_PROXY": "http://127.0.0.1:9",
        }
        said = subprocess.run(
            [azmcp, "bicepschema", "get", "--resource-type", resource],
            env={**os.environ, **quiet},
            capture_output=True,
            check=True,
            timeout=120,
        ).stdout
        found = json.loads(said)["results"]["BicepSchemaResult"]
        body = next(one["bodyType"] for one in found if one["$type"] == "Resource")
        return Types(body, {one["name"]: one for one in found if "name" in one})

    def complaints(self, resource: Mapping[str, Any]) -> list[str]:
        """Return what is wrong with a resource's body, each with where it is."""
        return list(self._object(self.body, resource, ""))

    def _object(self, kind: Mapping[str, Any], value: Any, at: str) -> Iterator[str]:
        if not isinstance(value, Mapping):
            yield f"{at}: not an object"
            return
        known = {one["name"]: one for one in kind.get("baseProperties", [])}
        if kind["$type"] == "DiscriminatedObject":
            by = kind["discriminator"]
            chosen = [one for one in kind["elements"] if self._chosen(one, by) == value.get(by)]
            if not chosen:
                yield f"{at}.{by}: {value.get(by)!r} is none of {self._choices(kind)}"
                return
            known |= {one["name"]: one for one in chosen[0]["properties"]}
        else:
            known |= {one["name"]: one for one in kind.get("properties", [])}
        others = kind.get("additionalPropertiesType")
        for name, inner in value.items():
            where = f"{at}.{name}".lstrip(".")
            if name in known:
                yield from self._property(known[name], inner, where)
            elif others is not None:
                yield from self._typed(others, inner, where)
            else:
                yield f"{where}: no such property"
        for name, one in known.items():
            if "Required" in one.get("flags", "").split(", ") and name not in value:
                yield f"{at}.{name}: missing".lstrip(".")

    def _chosen(self, element: Mapping[str, Any], by: str) -> str:
        return str(next(one["type"] for one in element["properties"] if one["name"] == by))

    def _choices(self, kind: Mapping[str, Any]) -> list[str]:
        return [self._chosen(one, kind["discriminator"]) for one in kind["elements"]]

    def _property(self, one: Mapping[str, Any], value: Any, at: str) -> Iterator[str]:
        if "ReadOnly" in one.get("flags", ""):
            yield f"{at}: read-only"
            return
        yield from self._typed(one["type"], value, at)
        pattern = re.search(r"pattern: (.+)$", one.get("modifiers", ""))
        if pattern and isinstance(value, str) and not re.search(pattern[1], value):
            yield f"{at}: {value!r} does not match {pattern[1]}"

    def _typed(self, kind: str, value: Any, at: str) -> Iterator[str]:
        if kind.endswith("[]"):
            for position, inner in enumerate(value):
                yield from self._typed(kind.removesuffix("[]"), inner, f"{at}[{position}]")
        elif kind in self.by_name:
            yield from self._object(self.by_name[kind], value, at)
        elif kind in PLAIN:
            wanted = PLAIN[kind]
            if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
                yield f"{at}: {value!r} is not a {kind}"
        elif re.fullmatch(r"[A-Z]\w*", kind) and value != kind:
            # A type that the answer names and does not hold: any object will do.
            if not isinstance(value, Mapping):
                yield f"{at}: {value!r} is not a {kind}"
        elif value not in (names := [one for one in kind.split(" | ") if one != "string"]):
            # A list that ends with `string` is open; a value beside it is a mistake of ours all the same.
            yield f"{at}: {value!r} is none of {names}"
