"""The command as a process: statuses, streams, terminals and pipes."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from graphc.cli import COMMANDS, main, make_parser
from graphc.cli.report import bytes_text, json_text, seconds_text, table
from graphc.version import __version__

COMMAND = [sys.executable, "-m", "graphc.cli"]


def test_every_command_has_help_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS:
        with pytest.raises(SystemExit) as caught:
            main([name, "--help"])
        assert caught.value.code == 0
        assert "--json" in capsys.readouterr().out


def test_wrong_usage_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["paint"], ["bench"], ["bench", "m.onnx", "--threads", "0"], ["plugins", "--colour"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"graphc {__version__}\n"


def test_the_parser_imports_nothing_heavy() -> None:
    source = (
        "import sys, graphc.cli\ngraphc.cli.make_parser()\n"
        "print(sorted({'numpy', 'onnx', 'llvmlite', 'rich', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert make_parser().prog == "graphc"


def test_an_error_is_a_message_on_stderr(tmp_path: Path) -> None:
    (tmp_path / "m.graphc").write_bytes(b"nonsense")
    done = subprocess.run([*COMMAND, "run", tmp_path / "m.graphc"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "m.graphc is no graphc artifact" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_pipe_gets_text_without_colours_and_may_close(model: Path) -> None:
    arguments = [*COMMAND, "run", model, "--backend", "reference"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    child = subprocess.Popen([*COMMAND, "plugins", "--no-load"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.close()
    assert b"Traceback" not in child.stderr.read()
    child.stderr.close()
    child.wait()


@pytest.mark.parametrize("json", [False, True])
def test_a_terminal_shows_progress_where_people_read(model: Path, json: bool) -> None:
    leader, follower = pty.openpty()
    arguments = [*COMMAND, "run", str(model), "--backend", "reference", *(["--json"] if json else [])]
    env = {**os.environ, "TERM": "xterm"}
    done = subprocess.run(arguments, stdout=subprocess.PIPE, stderr=follower, env=env, check=True)
    os.close(follower)
    shown = b""
    try:
        while chunk := os.read(leader, 4096):
            shown += chunk
    except OSError:  # how a terminal ends, on Linux
        pass
    os.close(leader)
    assert (b"compiling" in shown) == (not json)
    assert b"\x1b" not in done.stdout


def test_numbers_for_people() -> None:
    assert [bytes_text(n) for n in (1023, 1024, 5 << 20, 3 << 30)] == ["1023 B", "1.0 KiB", "5.0 MiB", "3.00 GiB"]
    assert [seconds_text(s) for s in (2.5, 0.0721, 4.2e-6, 1200.0)] == ["2.5 s", "72.1 ms", "4.2 us", "1200 s"]
    assert table([("n", "name"), (10, "a"), (2, "bc")], right=(0,)) == "   n  name\n  10  a\n   2  bc"
    assert json_text({"a": [float("nan"), float("inf"), 1.5], "b": (1,)}).split() == (
        ['{', '"a":', '[', '"nan",', '"inf",', '1.5', '],', '"b":', '[', '1', ']', '}']
    )
