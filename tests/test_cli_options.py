"""Flags, help, and what is said of wrong ones."""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import clean_environment
from hypothesis import given
from hypothesis import strategies as st

from minddpg import Config, cli
from minddpg.cli import options


def every_flag():
    _, commands = cli._parser([])
    return [(name, flag) for name, parser in commands.parsers.items() for flag in parser._option_string_actions
            if len(flag) > 3]  # fmt: skip


@pytest.mark.parametrize("spoil", [
    lambda flag: "--" + flag[2:].replace("-", ""),
    lambda flag: flag.replace("-", "_").replace("__", "--", 1).upper(),
    lambda flag: flag + "s",
    lambda flag: flag[:3] + flag[4:],
], ids=["no hyphens", "underscores", "a plural", "a letter missing"])  # fmt: skip
def test_every_flag_of_every_command_is_found_when_misspelt(capsys, spoil):
    _, commands = cli._parser([])
    for command, flag in every_flag():
        wrong = spoil(flag)
        if wrong in commands.parsers[command]._option_string_actions:
            continue
        with pytest.raises(SystemExit):
            commands.parsers[command].refuse([f"{wrong}=3"])
        assert f"there is no {wrong}; did you mean {flag}?; see 'minddpg {command} --help'" in capsys.readouterr().err


def test_what_is_far_from_every_flag_gets_no_advice():
    assert options.did_you_mean("--colour", ["--steps", "--seed"]) == ""
    assert options.did_you_mean("--", ["--steps"]) == ""
    assert options.did_you_mean("--lr", ["--steps"]) == ""


def test_minddpg_alone_shows_help(capsys):
    assert cli.main([]) == 0
    out = capsys.readouterr().out
    assert all(command.__name__.rpartition(".")[2] in out for command in cli.COMMANDS)


def train_parser(words):
    """As cli/train.py makes its own."""
    commands = options.Commands(options.Parser(prog="minddpg"), words)
    train = commands.add_parser("train")
    train.add_argument("env", nargs="?")
    train.add_argument("--preset")
    train.add_argument("--quiet", action="store_true")
    group = train.add_argument_group("hyperparameters")
    options.add_fields(group, [field.name for field in dataclasses.fields(Config)])
    options.show_preset(train, group, commands.words, "Pendulum-v1")
    return train


@pytest.mark.parametrize(
    ("words", "preset"),
    [
        (["--help"], "Pendulum-v1"),
        (["HalfCheetah-v5", "--help"], "mujoco"),
        (["-h", "--quiet", "HalfCheetah-v5"], "mujoco"),
        (["--noise", "ou", "--steps=7", "MountainCarContinuous-v0", "-h"], "MountainCarContinuous-v0"),
        (["--preset", "paper", "--help"], "paper"),
        (["HalfCheetah-v5", "--preset=paper", "--help"], "paper"),
        (["mine:Env-v0", "--help"], "default"),
    ],
)
def test_help_shows_the_values_of_the_preset_that_is_asked_for(words, preset):
    said = " ".join(train_parser(words).format_help().split())
    assert f"hyperparameters (default: those of the preset {preset}):" in said
    shown = Config.preset(preset)
    for name, value in (("steps", shown.steps), ("batch-size", shown.batch_size), ("actor-lr", shown.actor_lr),
                        ("hidden-sizes", ",".join(map(str, shown.hidden_sizes))), ("noise", shown.noise),
                        ("final-init", "none" if shown.final_init is None else shown.final_init)):  # fmt: skip
        text = said.split(f" --{name} ")[-1].split(" --")[0]
        assert text.split(" paper: ")[-1].split("; default: ")[-1].split(" hyper")[0].strip() == str(value), name


def test_without_help_the_flags_stay_as_they_are():
    said = " ".join(train_parser(["HalfCheetah-v5"]).format_help().split())
    assert "default:" not in said


def test_a_fresh_agents_defaults_are_shown(capsys):
    with pytest.raises(SystemExit):
        cli.main(["gradcheck", "--help"])
    assert "paper: 400,300; default: 64,64" in " ".join(capsys.readouterr().out.split())


VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()


@given(st.dictionaries(st.from_regex(r"[a-z_][a-z_0-9]*", fullmatch=True), VALUES | st.lists(VALUES)))
def test_env_kwargs_read_json(kwargs):
    assert options.env_kwargs([f"{name}={json.dumps(value)}" for name, value in kwargs.items()]) == kwargs


def test_env_kwargs_read_text_and_what_python_writes():
    texts = ["a=hard=er", "b=", "c=True", "d=False", "e=None", "f=1e-3", "g=terrain.xml", "h=[1,", "i=" + "[" * 100_000]
    assert options.env_kwargs(texts) == {
        "a": "hard=er", "b": "", "c": True, "d": False, "e": None, "f": 1e-3, "g": "terrain.xml", "h": "[1,",
        "i": "[" * 100_000,
    }  # fmt: skip
    assert options.env_kwargs(None) == {}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["Pendulum-v1"], "'Pendulum-v1' must be name=value, like g=9.81; other arguments stand before it"),
        (["=3"], "must be name=value"),
        (["max-speed=3"], "must be name=value"),
        (["g=3", "g=4"], "names g twice"),
    ],
)
def test_bad_env_kwargs_are_one_line(capsys, texts, message):
    with pytest.raises(SystemExit) as error:
        options.env_kwargs(texts)
    err = capsys.readouterr().err
    assert (error.value.code, err.count("\n"), message in err) == (2, 1, True), err


def test_env_kwargs_may_be_given_several_at_once_or_one_by_one():
    parser = options.Parser()
    options.add_env_kwargs(parser)
    args = parser.parse_args(["--env-kwargs", "a=1", "b=2", "--env-kwargs", "c=3"])
    assert options.env_kwargs(args.env_kwargs) == {"a": 1, "b": 2, "c": 3}


@pytest.mark.parametrize(
    "argv",
    [
        ["eval", "\udcff\u0416"],
        ["plot", "\udcff"],
        ["export", "\udcff", "\u0416.npz"],
        ["gradflow", "--plot", "\udcff.bmp"],
        ["train", "\u0416-v0"],
        ["\u0416"],
        ["eval", "a" * 5000],
        ["plot", "a" * 300],
        ["gradflow", "--plot", "a" * 300 + ".png"],
        ["eval", "a" * 300],
    ],
    ids=lambda argv: ascii(" ".join(argv)[:20]),
)
@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_what_the_locale_cannot_encode_or_is_too_long_is_no_traceback(argv, encoding, monkeypatch):
    """In this process, on streams like those of a process of that locale."""
    with open("out", "w", encoding=encoding) as out, open("err", "w", encoding=encoding) as err:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        with pytest.raises(SystemExit) as error:
            cli.main(argv)
    said = Path("err").read_text(encoding)
    assert (error.value.code, said.count("\n"), said.startswith("minddpg: error: ")) == (2, 1, True), said


def test_a_process_of_the_plainest_locale():
    environment = clean_environment(LC_ALL="C", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    command = [sys.executable, "-m", "minddpg", "eval", os.fsencode("\udcff\u0416")]
    result = subprocess.run(command, capture_output=True, env=environment)
    assert result.returncode == 2
    assert result.stderr.startswith(b"minddpg: error: \\udcff")
    assert result.stderr.count(b"\n") == 1


def test_text_that_no_file_of_the_locale_can_be_called(capsys, monkeypatch):
    def run(args):
        "\u0416".encode("ascii")

    monkeypatch.setattr(cli.eval, "run", run)
    with pytest.raises(SystemExit):
        cli.main(["eval", "x"])
    assert capsys.readouterr().err == (
        "minddpg: error: '\\u0416' cannot be written in ascii, the locale's encoding; try LC_ALL=C.UTF-8\n"
    )


def test_other_errors_of_the_system_are_not_dressed_up(monkeypatch):
    def run(args):
        raise PermissionError(13, "a bug")

    monkeypatch.setattr(cli.eval, "run", run)
    with pytest.raises(PermissionError, match="a bug"):
        cli.main(["eval", "x"])


def test_parsers_take_no_abbreviations():
    parser = options.Parser()
    parser.add_argument("--episodes")
    assert parser.parse_known_args(["--episode", "3"]) == (argparse.Namespace(episodes=None), ["--episode", "3"])


def test_the_random_transitions_of_a_fresh_agent_are_of_every_kind():
    """Actions from one bound to the other, states on both sides of 0, some episodes that end."""
    words = ["gradcheck", "--batch-size", "2000", "--obs-dim", "4", "--act-dim", "2", "--seed", "5"]
    parser, _ = cli._parser(words[1:])
    agent, batch, what = options.agent_and_batch(parser.parse_args(words), "DIR")
    assert (agent.obs_dim, agent.act_dim, what) == (4, 2, "a fresh agent, seed 5; random transitions")
    assert [array.shape for array in batch] == [(2000, 4), (2000, 2), (2000,), (2000, 4), (2000,)]
    assert np.abs(batch.act.mean(axis=0)).max() < 0.06  # 0.013 is one standard deviation
    assert -1 <= batch.act.min() < -0.98
    assert 0.98 < batch.act.max() <= 1
    for array in (batch.obs, batch.next_obs, batch.rew):
        assert np.abs(array.mean(axis=0)).max() < 0.1
        assert np.abs(array.std(axis=0) - 1).max() < 0.1
    assert 0.15 < batch.terminated.mean() < 0.25
    columns = np.column_stack([batch.obs, batch.next_obs, batch.act, batch.rew])
    off = np.corrcoef(columns.T) - np.eye(columns.shape[1])
    assert np.abs(off).max() < 0.1  # none is made from another
    again = options.agent_and_batch(parser.parse_args(words), "DIR")[1]
    assert all(np.array_equal(one, other) for one, other in zip(batch, again, strict=True))


@pytest.mark.parametrize("command", ["gradcheck", "gradflow"])
def test_flags_that_do_not_go_together_are_said_before_what_a_directory_lacks(capsys, command):
    with pytest.raises(SystemExit):
        cli.main([command, "nowhere", "--obs-dim", "3"])
    assert "--obs-dim is for a fresh agent; leave out DIR or the flag" in capsys.readouterr().err


@pytest.mark.parametrize(("command", "remedy"), [("train", "lower --buffer-size"), ("eval", "ask for less")])
def test_too_little_memory_is_one_line_with_what_helps(capsys, monkeypatch, command, remedy):
    def run(args):
        raise MemoryError("9 TB")

    monkeypatch.setattr(getattr(cli, command), "run", run)
    with pytest.raises(SystemExit) as caught:
        cli.main([command, *(["DIR"] if command == "eval" else [])])
    assert caught.value.code == 2
    assert f"not enough memory (9 TB); {remedy}\n" in capsys.readouterr().err


def test_too_little_memory_before_a_command_is_known(capsys, monkeypatch):
    def parser(words):
        raise MemoryError("no room")

    monkeypatch.setattr(cli, "_parser", parser)
    with pytest.raises(SystemExit):
        cli.main(["train"])
    assert "not enough memory (no room); ask for less\n" in capsys.readouterr().err


@pytest.mark.parametrize(("dtype", "memory"), [("float32", "16.5 MB"), ("float64", "32.5 MB")])
@pytest.mark.parametrize("quiet", [True, False])
def test_what_is_asked_of_a_training_reaches_it(capsys, monkeypatch, dtype, memory, quiet):
    """Every flag, and the memory that is said is that of the dtype: 500,000 of 3 + 3 + 1 + 1 numbers and a bool."""
    given, closed = {}, []

    def train(env, config, **options):
        given.update(options, env=env, dtype=config.dtype)
        raise MemoryError("9 TB")

    monkeypatch.setattr("minddpg.training.train", train)
    monkeypatch.setattr("minddpg.progress.Progress.close", lambda self: closed.append(self))
    monkeypatch.setattr(cli.train, "compile_ahead", lambda *args, **options: None)
    words = ["--steps", "500000", "--buffer-size", "500000", "--dtype", dtype, "--seed", "7", "--out", "here"]
    words += ["--checkpoint-every", "5", "--no-keep-replay", "--tensorboard", "--threads", "1"]
    with pytest.raises(SystemExit):
        cli.main(["train", "Pendulum-v1", *words, *(["--quiet"] if quiet else [])])
    assert f"500,000 transitions, {memory}" in capsys.readouterr().out
    progress, warn = given.pop("progress"), given.pop("warn")
    assert bool(progress) is not quiet
    assert callable(warn)
    assert len(closed) == (0 if quiet else 1)
    assert given == {
        "env": "Pendulum-v1", "dtype": dtype, "seed": 7, "out": "here", "env_kwargs": {}, "vectorization": "sync",
        "parameters_from": None, "checkpoint_every": 5, "keep_replay": False, "tensorboard": True, "profile": None,
        "threads": 1,
    }  # fmt: skip
