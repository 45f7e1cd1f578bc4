"""An SVG file made fit to stand inside an HTML page, beside others.

Matplotlib writes documents: ids repeat from one to the next, the style sheet means every element of the page,
and namespaces and metadata are addresses. Inlined, the ids get a prefix and the rest goes. Every colour becomes a
variable of the page's style sheet, whose value is the colour itself where the page sets none.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

# What matplotlib's style sheet says of every element, said once of the figure.
INHERITED = "stroke-linejoin:round;stroke-linecap:butt"


def inlined(svg: bytes, prefix: str, label: str) -> str:
    """The figure as one `<svg>` element for a page.

    Args:
        svg: The file, as matplotlib wrote it.
        prefix: Put before every id; figures on one page need different ones.
        label: What the figure shows, for those who hear the page.

    Returns:
        The markup, everything in it escaped. The colour #1b1f24 is `var(--c1b1f24,#1b1f24)` in it.
    """
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if _plain(child.tag) in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = _plain(element.tag)
        attributes = {}
        for name, text in element.attrib.items():
            attributes[_plain(name)] = _renamed(name, text, prefix)
        element.attrib = attributes
    # The view box stays, so that the figure fills the page's width; 1.4 pixels to the point is where its text would
    # grow larger than the page's.
    points = float(root.get("width", "0pt").removesuffix("pt"))
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib["role"] = "img"
    root.attrib["aria-label"] = label
    root.attrib["style"] = f"{INHERITED};max-width:{points * 1.4:.0f}px"
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)


def _plain(name: str) -> str:
    """A name without its namespace: HTML's parser knows SVG's."""
    return name.rpartition("}")[2]


def _renamed(name: str, text: str, prefix: str) -> str:
    """An attribute's text with the prefix in every id that it is or points to."""
    if name == "id":
        return f"{prefix}-{text}"
    if _plain(name) == "style":
        text = re.sub(r"#([0-9a-f]{6})\b", r"var(--c\1,#\1)", text)
    if _plain(name) == "href":
        text = re.sub(r"^#", f"#{prefix}-", text)
    return text.replace("url(#", f"url(#{prefix}-")


def colours(svg: bytes) -> set[str]:
    """The colours of a figure: "#1b1f24"."""
    found: set[str] = set()
    for element in ElementTree.fromstring(svg).iter():
        found.update(re.findall(r"#[0-9a-f]{6}\b", element.get("style", "")))
    return found


def variable(color: str) -> str:
    """The name of the variable that stands for a colour.

    >>> variable("#1b1f24")
    '--c1b1f24'
    """
    return f"--c{color.removeprefix('#')}"
