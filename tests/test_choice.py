"""The choice of the number of threads, on a clock of our own."""

import pytest

from minddpg import Config, ConfigError, train, training
from minddpg.cli import main
from minddpg.fast import choice as choice_module
from minddpg.fast.choice import BLOCK, ROUNDS, SHARE, SHORTEST, TROUBLE, Choice, Threads


def use(choice, updates, seconds):
    """Make updates; seconds(number): of one.    -> how many with each number, and the time of all"""
    made, total = {}, 0.0
    for _ in range(updates):
        number = choice.next
        made[number] = made.get(number, 0) + 1
        choice.took(seconds(number))
        total += seconds(number)
    return made, total


def test_the_fastest_is_kept_and_said():
    choice = Choice([1, 2, 4, 8])
    use(choice, 200, {1: 4e-3, 2: 2.1e-3, 4: 1.2e-3, 8: 1.3e-3}.get)
    assert choice.number == 4
    assert choice.news == "4 threads for an update: 4 ms with 1, 2.1 ms with 2, 1.2 ms with 4, 1.3 ms with 8"


@pytest.mark.parametrize("slower", [1.0, 1.5, 3, 14, 50])
def test_looks_cost_little_where_threads_are_of_no_use(slower):
    choice = Choice([1, 2])
    use(choice, 300, lambda n: 1e-3 * (1 if n == 1 else slower))
    made, total = use(choice, 60_000, lambda n: 1e-3 * (1 if n == 1 else slower))
    assert choice.number == 1
    assert total <= (1 + 1.1 * SHARE) * 60_000 * 1e-3
    assert (1 if slower == 50 else ROUNDS * BLOCK) <= made[2] <= 7 * ROUNDS * BLOCK  # it did look again, now and then


def test_a_machine_that_becomes_busy_is_noticed_soon():
    choice = Choice([1, 2])
    use(choice, 2_000, {1: 4e-3, 2: 2.2e-3}.get)
    assert choice.number == 2
    made, _ = use(choice, 2_000, {1: 4e-3, 2: 12e-3}.get)
    assert choice.number == 1
    assert made[2] < 150
    use(choice, 60_000, {1: 4e-3, 2: 2.2e-3}.get)
    assert choice.number == 2


def test_no_gain_worth_a_second_core():
    choice = Choice([1, 2])
    use(choice, 500, {1: 4e-3, 2: 3.95e-3}.get)
    assert choice.number == 1


def test_a_gain_that_shrinks_gives_the_core_back():
    choice = Choice([1, 2])
    use(choice, 500, {1: 4e-3, 2: 2e-3}.get)
    assert choice.number == 2
    use(choice, 20_000, {1: 4e-3, 2: 3.95e-3}.get)
    assert choice.number == 1


def test_a_moment_of_trouble_decides_nothing():
    choice, moments = Choice([1, 2]), iter([40e-3])
    use(choice, 50, lambda n: 4e-3 if n == 1 else next(moments, 2e-3))
    assert choice.number == 2


def test_short_updates_are_left_alone():
    choice = Choice([1, 2])
    made, _ = use(choice, 5_000, lambda n: 0.9 * SHORTEST)
    assert made == {1: 5_000}
    assert choice.is_over
    assert choice.news.startswith("one thread")


def test_one_cpu_needs_no_look():
    choice = Choice([1])
    assert choice.is_over
    assert choice.next == 1
    assert not choice.is_looking


def test_a_given_number_is_not_questioned():
    threads = Threads(3)
    assert threads.choice.is_over
    assert threads.choice.next == (1 if TROUBLE else 3)


@pytest.mark.parametrize("wanted", [1, 2, "auto"])
@pytest.mark.parametrize("plain", [False, True])
def test_where_there_is_no_team_one_thread_and_a_line(monkeypatch, wanted, plain):
    """But where plain NumPy was asked for, nobody expects more than one."""
    monkeypatch.setattr(choice_module, "TROUBLE", "there are no POSIX threads")
    monkeypatch.setattr(choice_module.numba.config, "DISABLE_JIT", plain)
    choice = Threads(wanted).choice
    assert (choice.is_over, choice.next) == (True, 1)
    silent = wanted == 1 or (wanted == "auto" and plain)
    assert choice.news == ("" if silent else "one thread for an update: there are no POSIX threads")


def test_a_look_gives_each_number_its_turns():
    choice = Choice([1, 2, 3])
    use(choice, 20, lambda n: 1e-3)
    made, _ = use(choice, 3 * ROUNDS * BLOCK, lambda n: 1e-3)
    assert made == dict.fromkeys((1, 2, 3), ROUNDS * BLOCK)


@pytest.mark.parametrize("wanted", [0, -1, 1.5, True, "all", None])
def test_what_is_no_number_of_threads(wanted):
    with pytest.raises(ConfigError, match="threads must be 'auto' or a whole number, 1 or more"):
        train("Pendulum-v1", Config(), threads=wanted)


@pytest.mark.parametrize("wanted", ["0", "-2", "1.5", "many"])
def test_a_flag_that_is_no_number_of_threads(wanted, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["train", f"--threads={wanted}"])
    assert stopped.value.code == 2
    assert "--threads" in capsys.readouterr().err.splitlines()[-1]


def test_the_flag_reaches_the_run(monkeypatch, capsys):
    wanted = []
    monkeypatch.setattr(training, "Threads", lambda number=1: wanted.append(number) or Threads(1))
    main(["train", "--threads=3", "--steps=20", "--learning-starts=10", "--hidden-sizes=4", "--episodes=1", "--quiet"])
    main(["train", "--resume=runs/Pendulum-v1-seed0", "--steps=25", "--threads=2", "--episodes=1", "--quiet"])
    assert [number for number in wanted if number != 1] == [3, 2]
