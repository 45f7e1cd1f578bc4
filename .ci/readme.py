"""README.md as a package index shows it, which has neither the repository's pictures nor its other pages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_PICTURE = re.compile(r"!\[[^\]]*\]\((?!https?:)[^)]*\)\n*")
_LINK = re.compile(r"\[([^\]]*)\]\((?!https?:|#)[^)]*\)")


class Readme(MetadataHookInterface):
    """The long description of the distributions."""

    def update(self, metadata: dict[str, Any]) -> None:
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": self_contained(text)}


def self_contained(text: str) -> str:
    """Without relative pictures; of a relative link the words remain. Code stays as it is."""
    parts = text.split("```")
    # Every second part is code.
    for place in range(0, len(parts), 2):
        prose = _PICTURE.sub("", parts[place])
        parts[place] = _LINK.sub(r"\1", prose)
    return "```".join(parts)
