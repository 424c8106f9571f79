"""The options of a command as tyro reads them, with its errors in one line."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from contextlib import redirect_stderr
from typing import TypeVar

import tyro

T = TypeVar("T")


def parse(options: Callable[..., T], arguments: list[str], prog: str) -> T:
    """The options as tyro reads them, with its errors in one line."""
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return tyro.cli(options, args=arguments, prog=prog)
    except SystemExit as stop:
        if not stop.code:
            print(end="", flush=True)  # the help is printed: now is when a closed pipe can be told
            raise
    # tyro says it in a box: a title, a rule, the message, a rule, where to find help
    message = re.split(r"[─-]{4,}", re.sub(r"[╭╮╰╯│|+]", " ", said.getvalue()))
    text = " ".join(message[1 if len(message) > 1 else 0].split())
    inner = re.search(
        r"Error parsing config\.(\w+): .*? for \w+ (?:Value error, (.*?)|(\S+) (.*?)) \[type=", text
    )
    if inner:
        group, whole, field, why = inner.groups()
        text = whole or f"{group}.{field}: {why[0].lower()}{why[1:]}"
    raise ValueError(text)


def value_of(arguments: list[str], option: str) -> str | None:
    """The value of an option that decides what the other options' defaults are."""
    for argument, following in zip(arguments, [*arguments, None][1:], strict=True):
        if argument == option:
            if following is None:
                raise ValueError(f"{option} needs the directory of a run")
            return following
        if argument.startswith(f"{option}="):
            return argument.split("=", 1)[1]
    return None
