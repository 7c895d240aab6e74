"""SVG elements, as charts are made of them."""

from xml.etree import ElementTree


def drawing(width: int, height: int, label: str) -> ElementTree.Element:
    """An empty <svg> of so many pixels, which says what it shows to who cannot see it."""
    size = {"viewBox": f"0 0 {width} {height}", "width": str(width), "height": str(height)}
    return ElementTree.Element("svg", {**size, "role": "img", "aria-label": label})


def child(parent: ElementTree.Element, tag: str, attributes: dict[str, str] | None = None) -> ElementTree.Element:
    """An element at the end of another."""
    return ElementTree.SubElement(parent, tag, attributes or {})


def write(
    svg: ElementTree.Element, x: float, y: float, text: str, anchor: str, kind: str = "tick"
) -> ElementTree.Element:
    """A text at (x, y); `anchor` is start, middle or end, `kind` its class."""
    label = child(svg, "text", {"class": kind, "x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor})
    label.text = text
    return label


def as_text(svg: ElementTree.Element) -> str:
    """The source of an element."""
    return ElementTree.tostring(svg, encoding="unicode")
