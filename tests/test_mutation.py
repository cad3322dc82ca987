"""scripts/mutation.py: which faults it plants. (Planting them and running the tests takes a quarter of an hour.)"""

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "mutation.py"
spec = importlib.util.spec_from_file_location("mutation", SCRIPT)
mutation = importlib.util.module_from_spec(spec)
spec.loader.exec_module(mutation)

SOURCE = '''"""Doc -1."""
@jit(cache=True)
def f(x: Literal[1], y=0.5) -> Literal[2]:
    """Doc -2."""
    if y <= 0 and not x:
        raise ValueError("y must be > 0 and not " + f"{y + 1}")
    x += 2; µ = g(x, -y)  # café
    return x if y else [x, True]
'''
CHANGES = """
3: def f(x: Literal[1], y=[-0.5-]{+1.0+}) -> Literal[2]:
5: if [-y <= 0 and not x-]{+y <= 0 or not x+}:
5: if [-y <= 0-]{+y < 0+} and not x:
5: if [-y <= 0-]{+y > 0+} and not x:
5: if y <= [-0-]{+1+} and not x:
5: if y <= 0 and [-not x-]{+x+}:
6: [-raise ValueError("y must be > 0 and not " + f"{y + 1}")-]{+pass+}
7: [-x += 2-]{+pass+}; µ = g(x, -y) # café
7: [-x += 2-]{+x -= 2+}; µ = g(x, -y) # café
7: x += [-2-]{+3+}; µ = g(x, -y) # café
7: x += [-2-]{+1+}; µ = g(x, -y) # café
7: x += 2; [-µ = g(x, -y)-]{+pass+} # café
7: x += 2; µ = [-g(x, -y)-]{+g(-y, x)+} # café
7: x += 2; µ = g(x, [--y-]{+y+}) # café
8: return [-x if y else [x, True]-]{+[x, True] if y else x+}
8: return x if y else [x, [-True-]{+False+}]
"""


def test_mutants_by_hand():
    found = mutation.mutants("any", SOURCE)
    assert [f"{mutant.line}: {mutant.change}" for mutant in found] == CHANGES.strip().splitlines()
    assert len({mutant.key for mutant in found} | {mutation.Mutant("any", 0, "", SOURCE).key}) == len(found) + 1
    for mutant in found:
        compile(mutant.source, "mutant", "exec")
        different = [i for i, rows in enumerate(zip(SOURCE.splitlines(), mutant.source.splitlines(), strict=True), 1)
                     if rows[0] != rows[1]]  # fmt: skip
        assert different == [mutant.line]
    assert "µ = (g(-y, x))  # café" in found[12].source


def test_the_equivalent_mutants_still_exist():
    lines = mutation.EQUIVALENTS.read_text().splitlines()
    listed = [line for line in lines if line.partition(":")[0] in mutation.MODULES]
    package = SCRIPT.parents[1] / "minddpg"
    existing = {f"{m.module}: {m.change}" for name in mutation.MODULES
                for m in mutation.mutants(name, (package / f"{name}.py").read_text())}  # fmt: skip
    assert listed
    assert set(listed) <= existing


@pytest.mark.parametrize(("arguments", "message"), [(["nets"], "no minddpg/nets.py"), (["--out", "."], "results")])
def test_bad_input_is_named(monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(sys, "argv", ["mutation.py", *arguments])
    with pytest.raises(SystemExit) as caught:
        mutation.main()
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
