"""The README's Python runs as it stands there."""

import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def test_examples_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(blocks) >= 2
    names: dict = {}
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
