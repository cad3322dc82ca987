import base64
import hashlib
import json
import re
import shutil
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from conftest import JIT, clean_environment, make_batch, new_run, save_run

from minddpg import DDPG, Config, RunError, gradflow, load
from minddpg.gradflow.monitor import Monitor
from minddpg.replay import ReplayBuffer
from minddpg.runs.directory import load_transitions
from minddpg.runs.files import array_file
from minddpg.runs.tables import load_table

pytest.importorskip("matplotlib")

from minddpg.gradflow import flow_picture, report
from minddpg.gradflow.report import MOST_FRAMES, _spread, write_report

NASTY = "<script>alert(1)</script>\"'&]]></script><!-- \u2028 {{data}} \\"


def make_run(path, env="Pendulum-v1", action_layer=0, looks=4, hidden_sizes=(8, 6)):
    """A run directory as `train` makes it, of an agent that has made a few updates on noise."""
    rng = np.random.default_rng(5)
    config = Config(hidden_sizes=hidden_sizes, action_layer=action_layer, batch_size=16, dtype="float64")
    agent, replay = DDPG(3, 1, config, 0), ReplayBuffer(200, 3, 1, "float64")
    batch = make_batch(rng, 64, 3, 1)
    for row in zip(*batch, strict=True):
        replay.add(*row)
    run = new_run(path, env, 0, 3, 1, config)
    monitor = Monitor(rng, 1, lambda row: run.append("gradients", row))
    for step in range(looks):
        agent.update(replay.sample(16, rng))
        monitor.after_updates(step, agent, replay)
    run.append("progress", {"episode": 1, "step": 200, "return": -1200.0, "length": 200, "seconds": 0.1})
    save_run(run, agent, replay)
    run.close()
    return path


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The report of a run whose environment's name is an attack."""
    directory = make_run(tmp_path_factory.mktemp("runs") / "run", NASTY)
    path = directory.parent / "report.html"
    write_report(directory, path)
    return path


@pytest.fixture
def no_pictures(monkeypatch):
    """Leave out the further pictures, which take most of the time."""
    monkeypatch.setattr(report, "_figures", lambda *args: iter(()))


def data_of(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


class Reader(HTMLParser):
    """Tags and text, as a browser reads them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)


def test_what_a_run_says_is_escaped(page):
    text = page.read_text(encoding="utf-8")
    read = Reader(text)
    assert "<script>alert" not in text
    assert text.count("</script>") == 2
    assert [attrs for tag, attrs in read.tags if tag == "script"] == [{"type": "application/json", "id": "data"}, {}]
    assert f"How dQ/da gets into the actor: {NASTY}" in "".join(read.text)
    assert "Pendulum" not in text


def test_versions_and_hyperparameters_are_escaped(tmp_path, no_pictures):
    directory = make_run(tmp_path / "run", looks=0)
    record = json.loads((directory / "config.json").read_text())
    record["versions"] = {NASTY: NASTY}
    (directory / "config.json").write_text(json.dumps(record))
    write_report(directory, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"Written by {NASTY} {NASTY}." in "".join(Reader(text).text)
    record["versions"], record["env"] = ["not", "a", "dict"], "\ud800"
    (directory / "config.json").write_text(json.dumps(record))
    write_report(directory, tmp_path / "report.html")
    assert "an unknown version" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_nothing_is_fetched_and_only_one_script_may_run(page):
    text = page.read_text(encoding="utf-8")
    without_names = re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)
    assert not re.findall(r"https?:|//[a-z]+\.", without_names)
    for _, attrs in Reader(text).tags:
        for name in ("src", "href", "xlink:href"):
            assert attrs.get(name, "#").startswith(("#", "data:")), attrs
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-")
    script = text[text.rindex("<script>") + 8 : text.rindex("</script>")]
    assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy
    assert not re.search(r'\son\w+="', text)  # an inline handler would need another permission


def test_ids_are_unique_and_the_json_is_plain(page):
    text = page.read_text(encoding="utf-8")
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    for target in re.findall(r'url\(#([^)]*)\)|href="#([^"]*)"', text):
        assert "".join(target) in ids
    raw = re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1]
    assert raw.isascii()
    assert not set("<>&") & set(raw)
    assert {"box:dact", "frame", "play", "tip"} <= set(ids)


def test_frames_say_what_gradients_csv_says(page):
    data, directory = data_of(page.read_text(encoding="utf-8")), page.parent / "run"
    table, names = load_table(directory, "gradients"), [hop["name"] for hop in data["hops"]]
    assert len(data["frames"]) == 5
    for line, frame in enumerate(data["frames"][:-1]):
        assert f"update {table['updates'][line]:.0f}, a batch of 16" in frame["when"]
        for name, (thickness, colour, rms, factor, *_) in zip(names, frame["hops"], strict=True):
            value = table[f"rms.{name}"][line]
            assert rms == flow_picture.rms_text(value)
            assert (thickness, colour) == flow_picture.stroke(value)
            assert name not in ("obs", "dq") or factor == "-"
        dact, dz = table["rms.dact"][line], table["rms.critic.0.dz"][line]
        assert frame["hops"][names.index("dact")][3] == f"x{dact / dz * (1 / 8) ** 0.5:.2g}"  # (16, 1) out of (16, 8)
        norm = table["rms.actor.0.dweight"][line] * 24**0.5  # (3, 8)
        assert frame["hops"][names.index("actor.0.dweight")][5] == f"{norm:.3g}"


def test_the_last_frame_is_the_trace(page):
    from minddpg.replay import Batch
    from minddpg.runs.directory import load

    kept, agent = load_transitions(page.parent / "run"), load(page.parent / "run")
    rows = np.random.default_rng(0).permutation(len(kept.rew))[:32]
    trace = gradflow.trace(agent, Batch(*(array[rows] for array in kept)))
    data = data_of(page.read_text(encoding="utf-8"))
    for hop, said in zip(data["hops"], data["frames"][-1]["hops"], strict=True):
        assert said[2] == flow_picture.rms_text(trace[hop["name"]].rms)
        assert said[3] == flow_picture.factor_text(hop["name"], trace[hop["name"]].factor)


@pytest.mark.parametrize("hidden_sizes", [(), (5,), (5, 4)])
def test_other_architectures(tmp_path, hidden_sizes, no_pictures):
    directory = make_run(tmp_path / "run", action_layer=max(0, len(hidden_sizes) - 1), hidden_sizes=hidden_sizes)
    write_report(directory, tmp_path / "report.html", batch_size=7, seed=3)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert data_of(text)["frames"][-1]["title"].endswith("N = 7 samples")
    assert ("of the actor's" in text) == bool(hidden_sizes)


def test_without_looks_there_is_no_slider_but_a_reason(tmp_path):
    write_report(make_run(tmp_path / "run", looks=0), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert 'id="frame"' not in text
    assert "no slider over the updates: the run has no gradients.csv" in text
    assert len(data_of(text)["frames"]) == 1


def test_diagnoses_have_cause_and_remedy(tmp_path, no_pictures):
    directory = make_run(tmp_path / "run")
    state = load(directory).state_dict()
    state["actor.2.bias"][:] = 50
    (directory / "agent.npz").write_bytes(array_file("agent", state))
    write_report(directory, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<strong>saturated</strong>: the actor is saturated: 100% of its actions" in text
    assert "Remedy: lower actor_lr" in text
    assert data_of(text)["frames"][-1]["numbers"].endswith("visibly wrong: saturated.")


def test_frames_are_spread_evenly_from_the_first_to_the_last():
    assert _spread(0) == []
    assert _spread(1) == [0]
    assert _spread(5) == [0, 1, 2, 3, 4]
    many = _spread(12345)
    assert (many[0], many[-1], len(many)) == (0, 12344, MOST_FRAMES)
    assert np.ptp(np.diff(many)) <= 1


def test_errors_are_one_line_and_leave_nothing_behind(tmp_path, no_pictures):
    directory = make_run(tmp_path / "run")
    for path in (tmp_path / "no" / "report.html", tmp_path, "."):
        with pytest.raises(RunError, match=r"\Acannot write .*\Z"):
            write_report(directory, path)
    table = directory / "gradients.csv"
    table.write_text(table.read_text().replace("rms.dact,", "rms.else,"))
    with pytest.raises(RunError, match=r"\Agradients\.csv is damaged \(it has no column rms\.dact\); .*\Z"):
        write_report(directory, tmp_path / "report.html")
    with pytest.raises(RunError, match="no config.json"):
        write_report(tmp_path / "nothing", tmp_path / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_numbers_that_are_none_are_shown_as_such(tmp_path, no_pictures):
    directory = make_run(tmp_path / "run")
    table = directory / "gradients.csv"
    lines = table.read_text().split("\n")
    place = lines[0].split(",").index("rms.dact")
    cells = lines[1].split(",")
    cells[place] = ""
    lines[1] = ",".join(cells)
    table.write_text("\n".join(lines))
    write_report(directory, tmp_path / "report.html")
    data = data_of((tmp_path / "report.html").read_text(encoding="utf-8"))
    place = [hop["name"] for hop in data["hops"]].index("dact")
    assert data["frames"][0]["hops"][place][:4] == [flow_picture.THINNEST, -1, "RMS nan", "-"]


@pytest.mark.skipif(not JIT, reason="is without JIT")
def test_without_the_jit(tmp_path):
    import subprocess
    import sys

    directory = make_run(tmp_path / "run", action_layer=1)
    code = "import sys; from minddpg.gradflow.report import write_report; write_report(*sys.argv[1:])"
    root = str(Path(flow_picture.__file__).parents[2])
    environment = clean_environment(NUMBA_DISABLE_JIT="1", PYTHONPATH=root)
    command = [sys.executable, "-W", "error", "-c", code, str(directory), "report.html"]
    subprocess.run(command, check=True, env=environment, cwd=tmp_path)
    assert 'id="box:critic.1.x"' in (tmp_path / "report.html").read_text(encoding="utf-8")


# --- in a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("needs chromium and chromedriver")
    profile = tmp_path_factory.mktemp("browser")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
        "disable-component-update", "disable-sync", "disable-dev-shm-usage", f"user-data-dir={profile / 'user'}",
        f"disk-cache-dir={profile / 'cache'}", "window-size=1280,1000",
    ):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    home = {**clean_environment(), "HOME": str(profile), "TMPDIR": str(profile), "XDG_CONFIG_HOME": str(profile)}
    service = webdriver.ChromeService(driver, env=home)
    started = webdriver.Chrome(options=options, service=service)
    try:
        yield started
    finally:
        started.quit()


@pytest.fixture
def opened(browser, page):
    browser.get(page.as_uri())
    yield browser
    assert browser.get_log("browser") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)") == []


def look_of(browser, name):
    """How a bar is drawn now: colour, height, its arrow's thickness, the texts."""
    return browser.execute_script(
        """
        const part = (kind, tag) => document.querySelector(`[id="${kind}:${arguments[0]}"] ${tag}`);
        const box = part("box", "path"), arrow = part("arrow", "path");
        return [box.style.fill, Math.round(box.getBBox().height * 100) / 100, parseFloat(arrow.style.strokeWidth),
                part("rms", "text").textContent, part("factor", "text").textContent];
        """,
        name,
    )


def expected_look(data, frame, name):
    place = [hop["name"] for hop in data["hops"]].index(name)
    thickness, colour, rms, factor, *_ = data["frames"][frame]["hops"][place]
    red, green, blue = bytes.fromhex(data["colours"][colour][1:])
    width = pytest.approx(thickness * data["arrow_share"], abs=0.01)
    return [f"rgb({red}, {green}, {blue})", pytest.approx(thickness, abs=0.01), width, rms, factor]


def move_slider(browser, key):
    browser.find_element("id", "frame").send_keys(key)


def test_content_is_shown_and_no_planted_script_ran(opened):
    title = opened.find_element("tag name", "h1").text
    assert "<script>alert(1)</script>\"'&]]></script><!--" in title
    assert opened.execute_script("return document.scripts.length") == 2
    rows = opened.find_elements("css selector", "#trace tr[data-hop]")
    assert len(rows) > 30
    assert all(row.size["height"] > 0 for row in rows)
    boxes = opened.find_elements("css selector", '#flow [id^="box:"]')
    assert len(boxes) == len(data_of(opened.page_source)["hops"])
    assert all(box.rect["width"] > 0 and box.rect["height"] > 0 for box in boxes)
    assert len(opened.find_elements("css selector", ".picture svg")) >= 2


def test_the_slider_moves_the_picture_and_back(opened, page):
    from selenium.webdriver.common.keys import Keys

    data = data_of(page.read_text(encoding="utf-8"))
    name, last = "actor.1.dz", len(data["frames"]) - 1
    at_first = look_of(opened, name)
    assert at_first == expected_look(data, last, name)
    move_slider(opened, Keys.HOME)
    assert look_of(opened, name) == expected_look(data, 0, name) != at_first
    for kind in ("when", "numbers"):
        assert opened.find_element("id", kind).text == data["frames"][0][kind]
    assert opened.find_element("css selector", "#title text").text == data["frames"][0]["title"]
    assert opened.find_element("id", "frame").get_attribute("aria-valuetext") == data["frames"][0]["when"]
    move_slider(opened, Keys.ARROW_RIGHT)
    assert look_of(opened, name) == expected_look(data, 1, name)
    move_slider(opened, Keys.END)
    assert look_of(opened, name) == at_first


def test_play_runs_to_the_end_and_can_be_paused(opened):
    play = opened.find_element("id", "play")
    play.click()
    assert play.text == "Pause"
    assert opened.find_element("id", "frame").get_attribute("value") == "0"
    play.click()
    assert play.text == "Play"
    play.click()
    until = time.monotonic() + 20
    while play.text == "Pause" and time.monotonic() < until:
        time.sleep(0.05)
    assert play.text == "Play"
    assert opened.find_element("id", "frame").get_attribute("value") == "4"


def test_pointing_at_a_bar_tells_its_numbers(opened):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    tip, box = opened.find_element("id", "tip"), opened.find_element("id", "box:dact")
    assert not tip.is_displayed()
    ActionChains(opened).scroll_to_element(box).move_to_element(box).perform()
    lines = tip.text.split("\n")
    assert lines[:2] == ["dact (N, 1)", "dz W^T with the action's rows of W"]
    assert re.fullmatch(r"RMS \S+, norm \S+", lines[2])
    assert re.fullmatch(r"lowest \S+, highest \S+, zeros 0%", lines[3])
    assert box.get_attribute("aria-describedby") == "tip"
    assert box.get_attribute("aria-label") == tip.text
    assert "lit" in opened.find_element("css selector", '#trace [data-hop="dact"]').get_attribute("class")
    move_slider(opened, Keys.HOME)
    assert "lowest" not in box.get_attribute("aria-label")  # known of the saved agent's update alone
    ActionChains(opened).move_to_element(opened.find_element("tag name", "h1")).perform()
    assert not tip.is_displayed()


def test_a_bar_can_be_reached_by_keyboard_and_from_the_table(opened):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    tip = opened.find_element("id", "tip")
    opened.execute_script("document.getElementById('flow').focus()")
    ActionChains(opened).send_keys(Keys.TAB).perform()
    assert tip.text.startswith("obs (N, 3)\n")
    ActionChains(opened).send_keys(Keys.ESCAPE).perform()
    assert not tip.is_displayed()
    row = opened.find_element("css selector", '#trace [data-hop="actor.0.dz"]')
    ActionChains(opened).scroll_to_element(row).move_to_element(row).perform()
    assert opened.find_element("id", "box:actor.0.dz").get_attribute("class") == "lit"


@pytest.mark.parametrize("width", [1280, 400])
def test_no_page_is_wider_than_the_window(opened, width):
    emulated = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", emulated)
    try:
        assert opened.execute_script("return document.documentElement.scrollWidth") <= width
        for box in opened.find_elements("css selector", "h1, p, .controls *"):
            assert box.rect["x"] >= 0
            assert box.rect["x"] + box.rect["width"] <= width
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
