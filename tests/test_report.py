import base64
import hashlib
import json
import re
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from conftest import JIT, clean_environment, make_batch, new_run, save_run

from minddpg import DDPG, Config, RunError, gradflow, load
from minddpg.gradflow.monitor import Monitor
from minddpg.replay import Batch, ReplayBuffer
from minddpg.runs.directory import load_transitions
from minddpg.runs.files import array_file
from minddpg.runs.tables import load_table

pytest.importorskip("matplotlib")

from minddpg.gradflow import flow_picture, mistakes, report, tell
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
    """Leave out the further pictures and most batches of mistakes, which take most of the time."""
    monkeypatch.setattr(report, "mistakes", lambda *args: mistakes(*args, batches=2))
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
    plain = {hop["name"] for hop in data["hops"] if hop["plain"]}
    assert plain >= {"obs", "act", "q"}
    assert plain.isdisjoint({"dq", "dact", "dtheta"})
    every = [table[f"rms.{name}"] for name in names if name not in plain]
    traced = gradflow.tracing.trace_run(directory, routes=False)
    of = {hop.name: hop.of for hop in traced.hops}
    scale = flow_picture.scale_of([*np.concatenate(every), *(traced[name].rms for name in names if name not in plain)])
    for line, frame in enumerate(data["frames"][:-1]):
        row = {name: float(column[line]) for name, column in table.items()}
        assert f"update {row['updates']:.0f}, a batch of 16" in frame["when"]
        assert (frame["headline"], frame["shares"]) == (tell(row).headline, tell(row).shares)
        assert [name for name, hop in zip(names, frame["hops"], strict=True) if hop[4]] == [tell(row).worst]
        for name, (thickness, colour, rms, factor, _) in zip(names, frame["hops"], strict=True):
            value = row[f"rms.{name}"]
            assert rms == flow_picture.rms_text(value)
            if name not in plain:
                assert (thickness, colour) == flow_picture.stroke(value, scale)
            before = row[f"rms.{of[name]}"] if of[name] else 0
            expected = flow_picture.factor_text(name, value / before) if before else "-"
            assert factor == expected, name


def test_the_last_frame_is_the_trace_of_the_runs_own_batch_size(page):
    kept, agent = load_transitions(page.parent / "run"), load(page.parent / "run")
    rows = np.random.default_rng(0).permutation(len(kept.rew))[: agent.config.batch_size]
    trace = gradflow.trace(agent, Batch(*(array[rows] for array in kept)), routes=False)
    data = data_of(page.read_text(encoding="utf-8"))
    assert data["frames"][-1]["when"].endswith(f"a batch of {agent.config.batch_size}.")
    for hop, said in zip(data["hops"], data["frames"][-1]["hops"], strict=True):
        assert said[2] == flow_picture.rms_text(trace[hop["name"]].rms)
        assert said[3] == flow_picture.factor_text(hop["name"], trace[hop["name"]].factor)
    assert data["frames"][-1]["headline"] == trace.story.headline


def test_the_report_is_all_of_it(tmp_path):
    write_report(make_run(tmp_path / "run"), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    headings = re.findall("<h2>(.*?)</h2>", text)
    assert headings == ["Is anything wrong?", "The gradient's way", "Array by array", "Four routes, one gradient",
                        "What the classic mistakes would do", "While training", "Q along the action", "The policy",
                        "The run"]  # fmt: skip
    routes, made = (re.search(rf'id="{name}".*?</table>', text, re.DOTALL)[0] for name in ("routes", "mistakes"))
    assert re.findall(r"<td>\(([abcd])\)", routes) == list("abcd")
    assert [name for name in gradflow.MISTAKES if name.replace("'", "&#x27;") in made] == list(gradflow.MISTAKES)
    assert "Over 100 batches of 16: the median, and where the middle 80 % lie." in text
    assert "may move against dQ/da" in text
    assert "RMS: root of the mean square; x RMS: the RMS over that" in text


def test_a_batch_larger_than_what_is_kept_is_said(tmp_path, no_pictures):
    write_report(make_run(tmp_path / "run"), tmp_path / "report.html", batch_size=5000)
    assert "5,000 were asked for; no more are kept" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_table_of_an_earlier_version_is_still_shown(tmp_path, no_pictures):
    """It knew norms of weights, and no share of shut units: causes are left out, numbers are there."""
    directory = make_run(tmp_path / "run")
    table = directory / "gradients.csv"
    names, *lines = table.read_text().splitlines()
    kept = [i for i, name in enumerate(names.split(",")) if not name.endswith((".shut", "_rms"))]
    kept += [names.split(",").index("dq_dact_rms")]
    cut = [",".join(line.split(",")[i] for i in kept) for line in (names, *lines)]
    table.write_text("\n".join(cut) + "\n")
    write_report(directory, tmp_path / "report.html")
    data = data_of((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert len(data["frames"]) == 5
    assert re.match(r"shrinks most at [^:]*\(x \S+\)", data["frames"][0]["headline"])


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
    assert "<strong>saturated</strong>: the actor is saturated: 100 % of its actions" in text
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
    paint = data["plain"] if data["hops"][place]["plain"] else data["colours"][colour]
    red, green, blue = bytes.fromhex(paint[1:])
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
    for place, kind in (
        ("when", "when"),
        ("numbers", "numbers"),
        ("said_headline", "headline"),
        ("when_table", "when"),
    ):
        assert opened.find_element("id", place).text == data["frames"][0][kind]
    assert opened.find_element("css selector", "#title text").text == data["frames"][0]["title"]
    assert opened.find_element("id", "frame").get_attribute("aria-valuetext") == data["frames"][0]["when"]
    move_slider(opened, Keys.ARROW_RIGHT)
    assert look_of(opened, name) == expected_look(data, 1, name)
    move_slider(opened, Keys.END)
    assert look_of(opened, name) == at_first


def test_the_table_moves_with_the_slider_and_agrees_with_the_box_it_lights(opened, page):
    from selenium.webdriver.common.keys import Keys

    data, names = data_of(page.read_text(encoding="utf-8")), None
    for key, number in ((Keys.HOME, 0), (Keys.ARROW_RIGHT, 1), (Keys.END, 4)):
        move_slider(opened, key)
        rows, boxes, framed = opened.execute_script(
            """
            const text = (kind, name) => document.querySelector(`[id="${kind}:${name}"] text`)?.textContent;
            const rows = [...document.querySelectorAll("#trace tr[data-hop]")]
                .filter((row) => text("rms", row.dataset.hop));
            const marks = [...document.querySelectorAll('[id^="mark:"]')];
            return [rows.map((row) => [...row.cells].map((cell) => cell.textContent)),
                    rows.map((row) => [text("rms", row.dataset.hop), text("factor", row.dataset.hop)]),
                    marks.filter((m) => m.querySelector("path").style.opacity === "1").map((m) => m.id.slice(5))];
            """
        )
        names = names or [cells[0] for cells in rows]
        assert len(rows) == len(data["hops"])
        for cells, (rms, factor) in zip(rows, boxes, strict=True):
            assert f"RMS {cells[2]}" == rms
            assert cells[3] == ("" if factor in ("-", None) else factor)
        frame = data["frames"][number]
        assert framed == [hop["name"] for hop, look in zip(data["hops"], frame["hops"], strict=True) if look[4]]
        cell = opened.find_element("css selector", '#trace [data-hop="dact"] td:nth-child(5)')
        assert cell.value_of_css_property("visibility") == ("visible" if number == 4 else "hidden")


def test_at_400_pixels_the_way_is_a_list_that_moves_too(opened, page):
    from selenium.webdriver.common.keys import Keys

    data = data_of(page.read_text(encoding="utf-8"))
    opened.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 400, "height": 900, "deviceScaleFactor": 1, "mobile": True}
    )
    try:
        move_slider(opened, Keys.HOME)
        way, frame = opened.find_element("id", "way"), data["frames"][0]
        assert way.is_displayed()
        looks = [(hop, look) for hop, look in zip(data["hops"], frame["hops"], strict=True) if hop["way"]]
        shown = [item.text.split("\n") for item in way.find_elements("tag name", "li")]
        assert shown == [[hop["name"], look[2][4:], look[3]] for hop, look in looks]
        assert len(way.find_elements("css selector", ".worst")) == 1
        assert way.rect["x"] + way.rect["width"] <= 400
        opened.execute_script("scrollTo(0, document.getElementById('trace').getBoundingClientRect().top + 100)")
        slider = opened.find_element("id", "frame")
        assert 0 <= opened.execute_script("return arguments[0].getBoundingClientRect().top", slider) < 100  # stays
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


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
    assert re.fullmatch(r"RMS \S+, x\S+", lines[2])
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
