"""HTML elements whose text and attributes are escaped when they are written."""

from __future__ import annotations

from typing import Final
from xml.etree.ElementTree import Element, tostring

SHAPES: Final = {"good": "●", "warning": "▲", "bad": "■", "quiet": "○"}
"""What a state looks like without its colour."""


def el(tag: str, *children: Element | str | None, **attributes: str | None) -> Element:
    """Return an element; None among the children and attributes is left out.

    An underscore at the end of an attribute's name is removed, any other one becomes a hyphen.
    """
    found = Element(tag, {_attribute(name): value for name, value in attributes.items() if value is not None})
    for child in children:
        if isinstance(child, str):
            _add_text(found, child)
        elif child is not None:
            found.append(child)
    return found


def _attribute(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


def _add_text(parent: Element, text: str) -> None:
    if len(parent):
        parent[-1].tail = (parent[-1].tail or "") + text
    else:
        parent.text = (parent.text or "") + text


def name(text: str) -> Element:
    """Return a name that others chose, which cannot change the direction of the text around it."""
    return el("bdi", text)


def state(kind: str, *text: Element | str | None) -> Element:
    """Return a state as a shape and words; *kind* is one of SHAPES, and chooses the colour too."""
    return el(
        "span", el("span", SHAPES[kind], class_="shape", aria_hidden="true"), *text, class_=f"state {kind}"
    )


def label(text: str, metric: str) -> Element:
    """Return the label of figures, which shows the name of their metric on focus and hover."""
    return el("span", text, el("span", metric, class_="metric", role="tooltip"), class_="label", tabindex="0")


def heading(text: str, metric: str | None = None, *, class_: str | None = None) -> Element:
    """Return the heading of a column."""
    return el("th", text if metric is None else label(text, metric), scope="col", class_=class_)


def table(
    caption: str, headings: list[Element], rows: list[Element], *, class_: str | None = None
) -> Element:
    """Return a table; the caption is for screen readers."""
    return el(
        "table",
        el("caption", caption, class_="unseen"),
        el("thead", el("tr", *headings)),
        el("tbody", *rows),
        class_=class_,
    )


def fold(summary: str, *children: Element, key: str) -> Element:
    """Return a part that is shown on request."""
    return el("details", el("summary", summary), *children, data_key=key)


def html(*elements: Element) -> str:
    """Write elements as HTML."""
    return "".join(tostring(element, encoding="unicode", method="html") for element in elements)
