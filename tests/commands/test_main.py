"""The `rspipe` command: which commands there are, and how it refuses what it does not know."""

import logging
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from rich.table import Column, Table

import rspipe
from rspipe.commands.main import COMMANDS, main, run, summary
from rspipe.commands.terminal import SafeFormatter, Terminal
from tests.processes import PIPELINES


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Return the exit status of `rspipe WORDS`, what it prints, and what it prints to stderr."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["rspipe", *words])
        try:
            main()
            status = 0
        except SystemExit as stopped:
            status = int(stopped.code or 0)
    return status, *capsys.readouterr()


@pytest.mark.parametrize("words", [["--help"], ["-h"], []])
def test_help_lists_every_command_with_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = answer(capsys, *words)
    assert (status, err) == (0, "")
    lines = [line for line in out.splitlines() if line.startswith("  ")]
    assert [line.split()[0] for line in lines] == list(COMMANDS)
    for line, command in zip(lines, COMMANDS, strict=True):
        assert line.endswith(f"  {summary(command)}")
        assert len(line) <= 120
        assert summary(command).endswith(".")


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(capsys, "--version") == (0, f"rspipe {rspipe.__version__}\n", "")


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("studdy", "did you mean 'study'?"),
        ("check_boundary", "did you mean 'check-boundary'?"),
        ("--x", "valid names: "),
    ],
)
def test_an_unknown_command_is_one_line(word: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = answer(capsys, word)
    assert (status, out) == (2, "")
    assert err.startswith(f"error: unknown command {word!r}; {hint}")
    assert err.count("\n") == 1


def test_a_file_that_a_job_did_not_upload_is_told_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    package.mkdir(parents=True)
    reason = "a job has no file that .gitignore or .rayignore names"
    for folder, told in ((tmp_path, False), (package, True)):
        monkeypatch.chdir(folder)
        status, _, err = answer(capsys, "study", "mine.toml")
        assert status == 2
        assert "mine.toml: no such study file" in err
        assert (reason in err) is told


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_prints_its_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = answer(capsys, command, "--help")
    assert status == 0
    assert out.startswith(f"usage: rspipe {command} ")
    assert " ".join(summary(command).split()) in " ".join(out.split())


def test_what_a_command_cannot_do_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = answer(capsys, "study", "no/such.toml")
    assert (status, out) == (2, f"rspipe study {rspipe.__version__}: loading\n")
    assert err == "error: no/such.toml: no such study file\n"


def test_certify_with_checkpoints_is_certify_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for command in ("certify", "certify-model"):
        words = ["--checkpoint", "a.pt", "--images", str(tmp_path / "nowhere"), "--sigma", "0.5", "--model", "lenet"]
        status, out, err = answer(capsys, command, *words)
        assert (status, out) == (2, f"rspipe certify-model {rspipe.__version__}: loading\n")
        assert err.endswith("a.pt: no such checkpoint file\n")
        assert err.count("\n") == 1
    assert answer(capsys, "certify", "no/such.toml")[2] == "error: no/such.toml: no such study file\n"


def test_every_command_is_a_script_too() -> None:
    files = {command: command.replace("-", "_") for command in COMMANDS} | {"study": "full_study"}
    # What checks rspipe is none of its commands.
    scripts = {path.stem for path in PIPELINES.glob("*.py")} - {"check_run", "recount"}
    assert scripts == set(files.values())
    for command, file in files.items():
        assert f'run("{command}")' in (PIPELINES / f"{file}.py").read_text(encoding="utf-8")


def test_every_command_has_options_and_a_main() -> None:
    for command in COMMANDS:
        loaded = import_module(f"rspipe.commands.{command.replace('-', '_')}")
        assert callable(loaded.main)
        assert isinstance(loaded.Options, type)


def test_what_is_printed_commands_no_terminal(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    terminal = Terminal()
    terminal.console.print("a \x1b[31mred\x07 b", Table(Column("h\x1b]0;title\x07"), title="t\x9b"))
    handler = logging.StreamHandler()
    handler.setFormatter(SafeFormatter())
    handler.emit(logging.makeLogRecord({"msg": "log \x1b[2J"}))
    with pytest.raises(SystemExit):
        run("report", [str(tmp_path / "\x1b[31m")])
    out, err = capsys.readouterr()
    for text in (out, err):
        assert {c for c in text if not c.isprintable()} <= {"\n"}
    assert r"a \x1b[31mred\x07 b" in out
    assert r"\x1b[2J" in err
    assert r"\x1b[31m is no run directory" in err


def test_a_terminal_that_cannot_print_a_sigma_gets_all_the_same(tmp_path: Path) -> None:
    log = tmp_path / "σ.tsv"
    log.write_text("idx\tlabel\tpredict\tradius\tcorrect\n" + "".join(f"{i}\t1\t1\t0.5\t1\n" for i in range(9)))
    code = "from rspipe.commands.main import run; import sys; run('audit', sys.argv[1:])"
    words = [sys.executable, "-c", code, str(log)]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    ended = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode in (0, 1), ended.stderr
    assert "Logs: 1" in ended.stdout
    assert ended.stderr == ""
