"""scripts/benchmark.py: that it runs. What it measures is no matter for a test."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import JIT, clean_environment

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(not JIT, reason="times compiled code")
def test_figures_as_json(tmp_path):
    command = [
        sys.executable,
        ROOT / "scripts" / "benchmark.py",
        "floor",
        "threads",
        "--quick",
        "--json",
        tmp_path / "out.json",
    ]
    done = subprocess.run(command, env=clean_environment(PYTHONPATH=str(ROOT)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out.json").read_text())
    assert {"python", "numpy", "numba"} <= set(result["about"])
    (row,) = result["floor"]
    assert row["shape"] == [[64, 64], 64, 3, 1]
    assert all(row[key] > 0 for key in ("seconds", "floor", "ratio", "act"))
    assert "64-64, batch 64, (3, 1): " in done.stdout
    (row,) = result["threads"]
    assert row["gain"]["1"] == 1
    assert set(row["gain"]) == set(row["seconds"])
