"""The `rspipe` command and the scripts of `pipelines/`: find the command, parse its options, report errors."""

import ast
import atexit
import gc
import io
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import rspipe
from rspipe.errors import RspipeError, nearest, needs_extra, printable

if TYPE_CHECKING:
    from rspipe.commands.terminal import Terminal

READERS = ("derive", "compare", "audit", "rejudge")
"""Commands that print nothing but what was asked for where there is no terminal."""

COMMANDS = (
    "study",
    "tune",
    "train",
    "weigh",
    "certify",
    "certify-model",
    "report",
    "derive",
    "compare",
    "bundle",
    "audit",
    "rejudge",
    "check-boundary",
)


def _module(command: str) -> str:
    return command.replace("-", "_")


def summary(command: str) -> str:
    """Return the line that says what a command does: the first of its module, which need not be importable."""
    source = Path(__file__).with_name(f"{_module(command)}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def help_text() -> str:
    """Return what `rspipe --help` prints."""
    lines = [f"  {command:<16}{summary(command)}" for command in COMMANDS]
    return "\n".join(
        [
            "usage: rspipe COMMAND [OPTIONS]",
            "",
            "Certified robustness by randomized smoothing, from training to the report.",
            "",
            *lines,
            "",
            "`rspipe COMMAND --help` lists the options of a command; `rspipe --version` prints the version.",
        ]
    )


# A folder of Ray's, in which a job has what was uploaded for it.
_UPLOADED = "working_dir_files"


def _fail(message: str) -> NoReturn:
    """Print what is wrong to stderr, and exit with status 2."""
    if "no such" in message and _UPLOADED in Path.cwd().parts:
        message += "; a job has no file that .gitignore or .rayignore names: give a path that all nodes see"
    print(f"error: {printable(message)}", file=sys.stderr)
    _end(2)


def _end(status: int) -> NoReturn:
    """End this process; where Ray was left behind, without what would crash."""
    endings = sys.modules.get("rspipe.execution.endings")
    if endings is not None:
        endings.end_process(status)
    sys.exit(status)


def run(command: str, words: Sequence[str] | None = None, *, prog: str | None = None) -> None:
    """Run a command with the words of a command line; what a user can correct is one line and exit status 2.

    Args:
        command: One of `COMMANDS`.
        words: Options; those this process was started with by default.
        prog: The program's name in its help; that of the script by default.
    """
    for stream in (sys.stdout, sys.stderr):
        # Not every terminal can print a sigma.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        with needs_extra(f"rspipe {command}"):
            from rspipe.commands.terminal import Terminal

        # Before the imports below, which take seconds.
        terminal = Terminal()
        # What modules hold is no garbage; to look for some during the imports, and again in the end, takes seconds.
        gc.disable()
        atexit.register(gc.freeze)
        try:
            if not {"--help", "-h"} & {*(sys.argv[1:] if words is None else words)}:
                _begin(terminal, command)
            with needs_extra(f"rspipe {command}"):
                import tyro

                module = import_module(f"rspipe.commands.{_module(command)}")
            gc.freeze()
            gc.enable()
            options = tyro.cli(module.Options, prog=prog, description=module.__doc__, args=words)
            module.main(options, terminal)
        finally:
            terminal.stop()
    except RspipeError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        _end(130)


def _begin(terminal: "Terminal", command: str) -> None:
    """Show at once that the command runs."""
    if not terminal.console.is_terminal:
        if command in READERS:
            return
        terminal.say(f"rspipe {command} {rspipe.__version__}: loading")
    terminal.doing("loading")
    terminal.start()


def main() -> None:
    """Run the command that the command line of `rspipe` names."""
    command, *words = sys.argv[1:] or ["--help"]
    if command in ("--help", "-h"):
        print(help_text())
    elif command == "--version":
        print(f"rspipe {rspipe.__version__}")
    elif command in COMMANDS:
        # Without a study there are checkpoints to certify.
        of_files = command == "certify" and any(word.partition("=")[0] == "--checkpoint" for word in words)
        run("certify-model" if of_files else command, words, prog=f"rspipe {command}")
    else:
        _fail(f"unknown command {command!r}{nearest(command, COMMANDS)}")
