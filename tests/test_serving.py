"""A run that is watched while it trains: by whom, what they see, and that nothing is written."""

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import clean_environment, new_run
from test_report import data_of, make_run

import minddpg
from minddpg import Config

pytest.importorskip("matplotlib")

from minddpg.gradflow import mistakes, report
from minddpg.gradflow.serving import HOST, Pages, make_server


@pytest.fixture
def quick(monkeypatch):
    """Without the further pictures, and few batches of mistakes."""
    monkeypatch.setattr(report, "_figures", lambda *args: iter(()))
    monkeypatch.setattr(report, "mistakes", lambda *args: mistakes(*args, batches=2))


@pytest.fixture
def served(tmp_path, quick):
    """-> a function that serves a directory, and gives its port"""
    servers = []

    def serve(directory, pause=0.0):
        server = make_server(Pages(directory, pause))
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return server.server_port

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def ask(port, path="/", method="GET", host=None):
    connection = http.client.HTTPConnection(HOST, port, timeout=60)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host or f"{HOST}:{port}")
    connection.endheaders()
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def files(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_the_page_is_the_report_and_nothing_is_written(served, tmp_path):
    directory = make_run(tmp_path / "run")
    before = files(tmp_path)
    port = served(directory, pause=60)
    status, page = ask(port)
    assert status == 200
    version = data_of(page)["version"]
    assert len(version) > 20
    assert "connect-src 'self'; img-src" in page
    assert ask(port, "/version") == (200, version)
    assert ask(port) == (200, page)
    assert files(tmp_path) == before
    report.write_report(directory, tmp_path / "report.html")
    plain = (tmp_path / "report.html").read_text()
    assert data_of(plain)["version"] is None
    assert "connect-src" not in plain
    assert data_of(plain)["frames"] == data_of(page)["frames"]


@pytest.mark.parametrize(
    ("path", "method", "host", "status"),
    [
        ("/run/config.json", "GET", None, 404),
        ("/../run/config.json", "GET", None, 404),
        ("/version/", "GET", None, 404),
        ("/", "POST", None, 501),
        ("/", "PUT", None, 501),
        ("/", "DELETE", None, 501),
        ("/", "GET", "evil.example", 403),
        ("/version", "GET", "evil.example:80", 403),
    ],
)
def test_nothing_else_can_be_asked_for(served, tmp_path, path, method, host, status):
    new_run(tmp_path / "run").close()
    assert ask(served(tmp_path / "run"), path, method, host)[0] == status


def test_only_this_machine_can_ask(tmp_path):
    new_run(tmp_path / "run").close()
    with make_server(Pages(tmp_path / "run")) as server:
        assert server.socket.getsockname()[0] == "127.0.0.1"
        assert server.socket.family == socket.AF_INET


def test_a_run_without_a_checkpoint_is_waited_for(served, tmp_path):
    new_run(tmp_path / "run", obs_dim=3, act_dim=1).close()
    port = served(tmp_path / "run")
    status, page = ask(port)
    assert status == 200
    assert "that run has made no checkpoint yet" in page
    assert 'http-equiv="refresh"' in page
    (tmp_path / "run" / "config.json").unlink()
    until = time.monotonic() + 20  # a page that took long to make is kept as long
    while "not a run directory" not in (page := ask(port)[1]) and time.monotonic() < until:
        time.sleep(0.05)
    assert "not a run directory" in page


def test_another_version_comes_with_another_row_and_not_before_the_pause_is_over(tmp_path, quick):
    directory = make_run(tmp_path / "run")
    pages = Pages(directory, pause=0.0)
    first = pages.page()
    assert pages.page() is first
    table = directory / "gradients.csv"
    lines = table.read_text()
    table.write_text(lines + lines.splitlines()[-1] + "\n")
    pages._next = time.monotonic() + 60
    assert pages.version() == data_of(first)["version"]
    pages._next = 0
    assert pages.version() != data_of(first)["version"]
    assert len(data_of(pages.page())["frames"]) == len(data_of(first)["frames"]) + 1


def test_the_command_serves_until_ctrl_c(tmp_path):
    directory = make_run(tmp_path / "run")
    before = files(tmp_path)
    root = str(Path(minddpg.__file__).parents[1])
    command = [sys.executable, "-m", "minddpg", "watch", str(directory)]
    environment = clean_environment(PYTHONPATH=root)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        line = process.stdout.readline()
        port = int(re.search(r"http://127\.0\.0\.1:(\d+)/ \(Ctrl-C ends it\)", line)[1])
        assert ask(port, "/version")[0] == 200
        taken = subprocess.run([*command, "--port", str(port)], capture_output=True, text=True, env=environment)
        assert (taken.returncode, taken.stderr.count("\n")) == (2, 1)
        assert f"cannot listen on port {port}" in taken.stderr
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (0, "\nno longer served\n", "")
    assert files(tmp_path) == before


def test_a_browser_follows_a_run_that_trains(browser, served, tmp_path):
    """The page comes anew as the tables grow, and stays where the slider was put."""
    from selenium.webdriver.common.keys import Keys

    directory, config = tmp_path / "run", Config(hidden_sizes=(8, 6), batch_size=16, learning_starts=50, steps=300)
    config = config.replace(diagnose_every=50, evaluate_every=0)
    minddpg.train("Pendulum-v1", config, out=directory, progress=False)

    def frames():
        return len(data_of(browser.page_source)["frames"])

    def wait_until(true):
        until = time.monotonic() + 90
        while not true():
            assert time.monotonic() < until
            time.sleep(0.2)

    browser.get(f"http://{HOST}:{served(directory)}/")
    assert frames() == 6
    assert browser.find_element("id", "frame").get_attribute("value") == "5"
    minddpg.resume(directory, steps=500, progress=False)
    wait_until(lambda: frames() == 10)
    assert browser.find_element("id", "frame").get_attribute("value") == "9"  # it was at the end, and is
    browser.find_element("id", "frame").send_keys(Keys.HOME, Keys.ARROW_RIGHT)
    minddpg.resume(directory, steps=550, progress=False)
    wait_until(lambda: frames() == 11)
    assert browser.find_element("id", "frame").get_attribute("value") == "1"  # where it was put
    told = browser.find_element("id", "when").text
    assert told == data_of(browser.page_source)["frames"][1]["when"]
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    assert json.loads((directory / "config.json").read_text())["config"]["steps"] == 550
