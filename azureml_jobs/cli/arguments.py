"""What a verb takes, and the one parser of the command line.

A verb's row (`Verb`) names its arguments; nothing else decides what it takes. Three kinds:

    NAME                a word; its position says which one it is
    run=RUN             a key with a value
    --detach, --ca FILE a flag, alone or with a value

Everything else is an override of the configuration where the row allows it, or a mistake.

    MDW-111 an argument that a verb does not take, or one that is missing    MDW-112 one that is given twice
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Final

from conf.errors import ConfigError

HYDRA_FLAGS: Final = (
    *(
        "--help",
        "-h",
        "--cfg",
        "-c",
        "--resolve",
        "--package",
        "-p",
        "--multirun",
        "-m",
        "--run",
        "-r",
    ),
    *("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn", "--info", "-i"),
    *("--hydra-help", "--version", "--experimental-rerun", "--shell-completion", "-sc"),
)
"""What Hydra reads itself, where a verb is a Hydra application; `hydra_app` refuses some of them.
"""
HELP_FLAGS: Final = ("--help", "-h")
LONGEST: Final = 100
"""Characters of a wrong argument that a message repeats."""


@dataclass(frozen=True)
class Argument:
    """One argument of a verb; `value` is what stands for its value in the help, empty for a bare
    flag.
    """

    name: str
    help: str
    value: str = ""
    required: bool = False
    choices: tuple[str, ...] = ()
    alias: str = ""
    code: str = "MDW-111"
    needs: str = ""  # another argument, without which this one means nothing
    backend: str = ""  # the only one that has it
    bare: bool = False  # may stand without its name, where no other word can be meant
    many: bool = False  # a word that may stand any number of times, and is the last one

    @property
    def is_flag(self) -> bool:
        """Return whether it begins with a dash."""
        return self.name.startswith("-")

    @property
    def is_word(self) -> bool:
        """Return whether its position alone says what it is."""
        return self.name.isupper()

    @property
    def form(self) -> str:
        """Return how it is written."""
        if self.many:
            return f"{self.name} ..."
        if self.is_word or not self.value:
            return self.name
        return f"{self.name} {self.value}" if self.is_flag else f"{self.name}={self.value}"


@dataclass(frozen=True)
class Verb:
    """A row of the table of verbs; `run` is `module:function` below azureml_jobs.cli, imported when
    it is called.

    `overrides` are the prefixes of the configuration's keys that it takes: none, ("",) for all. A
    `hydra` verb hands its flags on to Hydra (`--cfg`, `--multirun`). Exactly one argument of each
    tuple in `one_of` has to be given.
    """

    name: str
    role: str
    summary: str
    run: str
    arguments: tuple[Argument, ...] = ()
    overrides: tuple[str, ...] = ()
    hydra: bool = False
    own_help: bool = False
    about: str = ""
    examples: tuple[tuple[str, str], ...] = ()
    statuses: tuple[tuple[str, str], ...] = ()
    one_of: tuple[tuple[str, ...], ...] = ()

    def function(self) -> Callable[[Arguments], int]:
        """Return the function that does it."""
        module, _, name = self.run.partition(":")
        found: Callable[[Arguments], int] = getattr(
            import_module(f"azureml_jobs.cli.{module}"), name
        )
        return found


@dataclass(frozen=True)
class Arguments:
    """What one call of a verb asks for; `rest` are overrides, and Hydra's flags, in the order
    given, `words` those that the verb takes any number of.
    """

    verb: Verb
    values: dict[str, str] = field(default_factory=dict)
    flags: frozenset[str] = frozenset()
    rest: tuple[str, ...] = ()
    words: tuple[str, ...] = ()

    def get(self, name: str, default: str = "") -> str:
        """Return the value of an argument."""
        return self.values.get(name, default)

    def has(self, name: str) -> bool:
        """Return whether an argument was given."""
        return name in self.flags or name in self.values

    def number(self, name: str, default: float, most: float = math.inf) -> float:
        """Return an argument as a number above 0 and not above `most`.

        Raises ConfigError MDW-111.
        """
        if name not in self.values:
            return default
        try:
            value = float(self.values[name])
        except ValueError:
            value = math.nan
        if not 0 < value <= most:
            what = f"{name}={self.values[name]} is not a number"
            raise self.wrong(
                f"{what} above 0" if math.isinf(most) else f"{what} of 1 to {most:.0f}"
            )
        return value

    def wrong(self, what: str, hint: str = "") -> ConfigError:
        """Return the error of an argument that the verb can't act on."""
        return ConfigError("MDW-111", f"meadow {self.verb.name}: {what}.", hint or see(self.verb))

    @property
    def written(self) -> list[str]:
        """Return the words, keys and flags of the verb's own as a person writes them after
        `meadow`.
        """
        own = self.verb.name.split()
        for argument in self.verb.arguments:
            if argument.name in self.flags:
                own.append(argument.name)
            elif argument.name in self.values:
                value = self.values[argument.name]
                if argument.is_word:
                    own.append(value)
                elif argument.is_flag:
                    own += [argument.name, value]
                else:
                    own.append(f"{argument.name}={value}")
        return own


def see(verb: Verb) -> str:
    """Return where the verb's arguments are explained."""
    return f"See meadow {verb.name} --help."


def parse(verb: Verb, args: Iterable[str], others: Iterable[str] = ()) -> Arguments:
    """Return what `args` ask of a verb; raises ConfigError.

    `others` are the keys that other verbs take: they are told apart from a key of the
    configuration.
    """
    reader = _Reader(verb, frozenset(others))
    waiting = list(args)
    while waiting:
        waiting = reader.take(waiting[0], waiting[1:])
    reader.check_complete()
    return Arguments(
        verb, reader.values, frozenset(reader.flags), tuple(reader.rest), tuple(reader.words)
    )


class _Reader:
    """Takes one argument after the other."""

    def __init__(self, verb: Verb, others: frozenset[str]) -> None:
        self._verb = verb
        self._others = others
        self._bare = next((one for one in verb.arguments if one.bare), None)
        self._words = [one for one in verb.arguments if one.is_word]
        self._named = {one.name: one for one in verb.arguments if not one.is_word}
        self._named |= {one.alias: one for one in verb.arguments if one.alias}
        self.values: dict[str, str] = {}
        self.flags: set[str] = set()
        self.rest: list[str] = []
        self.words: list[str] = []

    def take(self, arg: str, following: list[str]) -> list[str]:
        """Take one argument, and of those that follow what belongs to it; return what is left of
        them.
        """
        key, equals, value = arg.partition("=")
        argument = self._named.get(key)
        if argument is None:
            self._other(arg, key, bool(equals))
            return following
        if not argument.value and equals:
            raise self._error(argument, f"{argument.name} takes no value")
        if not argument.value:
            self._once(argument)
            self.flags.add(argument.name)
            return following
        if argument.is_flag and not equals and following:
            value = following[0]
            following = following[1:]
        elif not equals and not argument.is_flag:
            # `run` alone, without its equals sign, is not a key
            self._other(arg, key, False)
            return following
        self._give(argument, value)
        return following

    def check_complete(self) -> None:
        """Raise ConfigError for what is missing, or means nothing without another argument."""
        given = self.flags | self.values.keys()
        given |= {one.name for one in self._verb.arguments if one.many and self.words}
        for argument in self._verb.arguments:
            if argument.required and argument.name not in given:
                raise self._error(argument, f"{argument.form} is missing")
            if argument.name in given and argument.needs and argument.needs not in given:
                raise self._error(argument, f"{argument.form} belongs to {argument.needs}")
        for names in self._verb.one_of:
            if len(given.intersection(names)) != 1:
                choices = ", ".join(self._named[name].form for name in names)
                raise ConfigError(
                    "MDW-111",
                    f"meadow {self._verb.name}: give exactly one of {choices}.",
                    see(self._verb),
                )

    def _other(self, arg: str, key: str, has_value: bool) -> None:
        """Take a word or an override, or refuse what is neither."""
        if arg.startswith("-"):
            if not (self._verb.hydra and key in HYDRA_FLAGS):
                raise self._unknown(arg, key)
            self.rest.append(arg)
        elif self._verb.overrides and (has_value or arg.startswith("~")):
            # `~key` alone is Hydra's way to leave a key out
            self._override(arg, key)
        elif not has_value and self._words:
            self._word(arg)
        elif not has_value and self._bare is not None and self._bare.name not in self.values:
            self._give(self._bare, arg)
        elif self._verb.hydra and self.rest and self.rest[-1] in HYDRA_FLAGS:
            # the value of one of Hydra's flags, such as `job` of `--cfg job`
            self.rest.append(arg)
        else:
            raise self._unknown(arg, key)

    def _word(self, arg: str) -> None:
        argument = self._words[0]
        if argument.many:
            self.words.append(arg)
        else:
            self._give(self._words.pop(0), arg)

    def _override(self, arg: str, key: str) -> None:
        if key in self._others or self._is_misspelt(key):
            raise self._unknown(arg, key)
        plain = key.lstrip("+~")
        if not any(plain.startswith(prefix) for prefix in self._verb.overrides):
            raise self._unknown(arg, key)
        self.rest.append(arg)

    def _is_misspelt(self, key: str) -> bool:
        """Return whether a key is nearer to one of the verb's own than to any of the
        configuration's.
        """
        from dataclasses import fields

        from conf.schema import Conf

        groups = {one.name for one in fields(Conf)} | {"experiment"}
        if key in groups or not key.isidentifier():
            return False
        own = {name for name in self._named if not name.startswith("-")}
        nearest = difflib.get_close_matches(key, own | groups, n=1, cutoff=0.7)
        return bool(nearest) and nearest[0] in own

    def _give(self, argument: Argument, value: str) -> None:
        self._once(argument)
        if not value:
            raise self._error(argument, f"{argument.name} has no value")
        if argument.choices and value not in argument.choices:
            known = ", ".join(argument.choices)
            close = difflib.get_close_matches(value, argument.choices, n=1)
            hint = f"Did you mean '{close[0]}'?" if close else f"Valid here: {known}."
            what = f"meadow {self._verb.name}: there is no {argument.name}={_short(value)}."
            raise ConfigError(argument.code, what, hint)
        self.values[argument.name] = value

    def _once(self, argument: Argument) -> None:
        if argument.name in self.flags or argument.name in self.values:
            what = f"meadow {self._verb.name}: {argument.name} is given twice."
            raise ConfigError("MDW-112", what, "Give it once.")

    def _error(self, argument: Argument, what: str) -> ConfigError:
        hint = f"{argument.form}: {argument.help}."
        return ConfigError(argument.code, f"meadow {self._verb.name}: {what}.", hint)

    def _unknown(self, arg: str, key: str) -> ConfigError:
        """Return the error of an argument that is none of the verb's, with the nearest that is."""
        names = {name: one.form for name, one in self._named.items()}
        meant = self._meant(arg)
        if meant:
            what = f"meadow {self._verb.name}: '{_short(arg)}' is not an argument of it."
            return ConfigError("MDW-111", what, meant)
        if self._verb.hydra:
            names |= {flag: flag for flag in HYDRA_FLAGS if flag.startswith("--")}
        close = difflib.get_close_matches(key, names, n=1, cutoff=0.6)
        if close:
            hint = f"Did you mean '{names[close[0]]}'?"
        else:
            forms = [one.form for one in self._verb.arguments]
            for prefix in self._verb.overrides:
                if prefix:
                    forms.append(
                        f"{prefix}KEY=VALUE" if prefix.endswith(".") else f"{prefix}=VALUE"
                    )
            hint = f"It takes {', '.join(forms) or 'nothing'}."
        what = f"meadow {self._verb.name}: '{_short(arg)}' is not an argument of it."
        return ConfigError("MDW-111", what, hint)

    def _meant(self, arg: str) -> str:
        """Return which key of the configuration `--rounds` or `rounds` stands for; empty if none."""
        if "" not in self._verb.overrides:
            return ""
        from conf.meant_key import did_you_mean, known_key

        key, _, value = arg.lstrip("-").partition("=")
        if known_key(key) is not None:
            return f"Write {key}={value or 'VALUE'}."
        return did_you_mean(key, value)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
