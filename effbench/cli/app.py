"""The typer application: the list of commands, their common behaviour, and the handling of errors."""

from __future__ import annotations

import os
import signal
import sys
from pkgutil import resolve_name
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from effbench import __version__
from effbench.cli.options import flag
from effbench.common.exits import Exit, Fault
from effbench.common.spec import MESSAGE, UsageError
from effbench.common.wording import one_line
from effbench.show.terminal import speak_any_encoding

# The module and function of each command, in the order of --help. A new command is a file and a line here.
COMMANDS = {
    "run": "effbench.cli.run:run",
    "show": "effbench.cli.show:show",
    "choose": "effbench.cli.choose:choose",
    "compare": "effbench.cli.compare:compare",
    "ensemble": "effbench.cli.ensemble:ensemble",
    "paper": "effbench.cli.paper:paper",
    "plot": "effbench.cli.plot:plot",
    "report": "effbench.cli.html_report:report",
    "export": "effbench.cli.export:export",
    "audit": "effbench.cli.audit:audit",
    "doctor": "effbench.cli.doctor:doctor",
    "gate": "effbench.cli.gate:gate",
    "status": "effbench.cli.cluster_jobs:status",
    "cancel": "effbench.cli.cluster_jobs:cancel",
    "merge": "effbench.cli.merge:merge",
    "pack": "effbench.cli.pack:pack",
    "unpack": "effbench.cli.pack:unpack",
    "list": "effbench.cli.listing:list_",
}

# click's UsageError (unknown options, missing arguments), which is in typer or in click by typer's version.
_ParserError: type[Any] = typer.BadParameter.__mro__[1]


class Command(TyperCommand):
    """A command that takes no empty value: an unset variable of a shell must not turn into a default."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse empty arguments and values of options before anything is read."""
        for place, text in enumerate(args):
            before = args[place - 1] if place else ""
            if not text.strip():
                what = before if before.startswith("-") and "=" not in before else "an argument"
                raise UsageError(f"{what} is empty")
            name, sign, value = text.partition("=")
            if name.startswith("--") and sign and not value.strip():
                raise UsageError(f"{name} is empty")
        return super().parse_args(ctx, args)

    def get_help_option(self, ctx: Any) -> Any:
        """Return ``--help`` without a type beside it, like every other flag."""
        return _without_type(super().get_help_option(ctx))


class Commands(TyperGroup):
    """The commands; the file of a command is imported when the command is needed. --help needs all."""

    def get_help_option(self, ctx: Any) -> Any:
        """Return ``--help`` without a type beside it, like every other flag."""
        return _without_type(super().get_help_option(ctx))

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, or None if there is none of that name."""
        if cmd_name in COMMANDS and cmd_name not in self.commands:
            alone = typer.Typer(add_completion=False, rich_markup_mode="rich")
            alone.command(cmd_name, cls=Command)(resolve_name(COMMANDS[cmd_name]))
            self.commands[cmd_name] = typer.main.get_command(alone)
        return self.commands.get(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Refuse an unknown command with the names of all."""
        if args and args[0] not in COMMANDS and not ctx.resilient_parsing:
            from effbench.common import registry

            raise UsageError(registry.unknown("command", args[0], list(COMMANDS), "there are"))
        return super().resolve_command(ctx, args)


def _without_type(option: Any) -> Any:
    if option is not None:
        option.metavar = ""
    return option


app = typer.Typer(
    name="effbench",
    cls=Commands,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"effbench {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, flag("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Measure attention mechanisms: their time, memory and FLOPs on this machine, and their accuracy."""


def main() -> None:
    """Run the command line; a user's mistake is one line on standard error and exit code 2."""
    speak_any_encoding()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # also where SIGINT is ignored
    arguments = sys.argv[1:]
    try:
        code = app(arguments or ["--help"], prog_name="effbench", standalone_mode=False)
    except UsageError as error:
        _fail(str(error), Exit.USAGE)
    except _ParserError as error:
        _fail(_parser_message(error, arguments), Exit.USAGE)
    except Fault as error:
        _fail(str(error), Exit.FAULT)
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    sys.exit(Exit(code or Exit.DONE) if arguments else Exit.USAGE)


def _parser_message(error: Any, arguments: list[str]) -> str:
    """Return the parser's message in the form of all others: one line, with the command to ask for help."""
    text = error.format_message().rstrip(".")
    command = f"effbench {arguments[0]}" if arguments and arguments[0] in COMMANDS else "effbench"
    return one_line(f"{text[:1].lower()}{text[1:]}; see {command} --help", MESSAGE)


def _fail(text: str, code: int) -> NoReturn:
    print(f"effbench: {text}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
