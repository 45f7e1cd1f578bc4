"""The README's Python runs as it stands there, but for the number of steps."""

import re
from pathlib import Path

from isoscale.testing import inline

README = Path(__file__).parent.parent / "README.md"


def test_examples_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = README.read_text()
    assert text.count("steps=100,") == 1
    blocks = re.findall(r"```python\n(.*?)```", text.replace("steps=100,", "steps=20,"), flags=re.DOTALL)
    assert len(blocks) >= 2
    names: dict = {}
    with inline():
        for block in blocks:
            exec(compile(block, str(README), "exec"), names)
    assert (tmp_path / "isoscale-report" / "index.html").exists()
    assert capsys.readouterr().out.startswith(("Yes", "No", "Cannot tell"))
    # The comment under the rule's example is what it gives.
    block = next(block for block in blocks if "# Factors(" in block)
    claimed = re.search(r"# (Factors\(.*\))", block)
    last = block.strip().splitlines()[-2]
    assert claimed
    assert repr(eval(last, names)) == claimed[1]
