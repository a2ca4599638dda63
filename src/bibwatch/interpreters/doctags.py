"""`doctags`: a page in DocTags, SmolDocling's markup: text, headings, lists, images, code and tables, with boxes.

Knows the tags. Does not check what the model wrote against the page.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from bibwatch.domain.box import Box
from bibwatch.errors import ModelReplyError
from bibwatch.interpreters.base import Interpreter, InterpreterOptions
from bibwatch.interpreters.code_block import Code, marked_code
from bibwatch.interpreters.otsl import otsl_rows
from bibwatch.interpreters.replies import quoted, reply
from bibwatch.runtimes.base import BoxConvention, CoordinateSpace, Prediction

_GRID = 500  # width and height of an image in DocTags coordinates

_CONTAINER = "doctag|document|inline|group|form|key_value_region|unordered_list|ordered_list|list"
_VERBATIM = "code|formula|otsl"  # their content is not parsed for tags
_ELEMENT = (
    "text|paragraph|title|section_header(?:_level_[1-6])?|list_item|picture|chart|caption|footnote|reference|"
    "page_header|page_footer|document_index|checkbox_selected|checkbox_unselected"
)
_TAG = re.compile(
    rf"<(?P<verbatim>{_VERBATIM})>(?P<inside>.*?)(?P<ended></(?P=verbatim)>|\Z)|<(?P<end>/?)(?P<label>{_ELEMENT}|{_CONTAINER})>",
    re.DOTALL,
)
_LOCATION = re.compile(r"\s*" + r"<loc_(\d{1,4})>" * 4)
_CAPTION = re.compile(r"<caption>(.*?)(?:</caption>|\Z)", re.DOTALL)
_MARKUP = re.compile(r"<loc_\d+>|<page_break>")
_IMAGE_KIND = re.compile(r"<[a-z_]+>")  # of an image: `<bar_chart>`, `<logo>`, `<other>`


@dataclass(frozen=True)
class Element:
    """One part of a page. `within` is the enclosing tag: a list, an image, a table; only tables have rows."""

    label: str
    text: str
    box: Box | None
    within: str = ""
    rows: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Document:
    """A page: its elements in reading order, and its DocTags source."""

    elements: tuple[Element, ...]
    source: str

    def markdown(self) -> str:
        """Return the page as Markdown, without page headers and footers."""
        markdown, number, before = "", 0, ("", "")
        for element in self.elements:
            kind = (element.label, element.within)
            number, before = (number + 1 if kind == before and element.label == "list_item" else 1), kind
            if block := _markdown(element, number):
                markdown += ("\n" if number > 1 else "\n\n") + block
        return markdown.strip("\n")


class DocTagsOptions(InterpreterOptions):
    """No options."""

    produces: ClassVar[str] = "document"

    kind: Literal["doctags"] = "doctags"


class DocTags(Interpreter[DocTagsOptions, Document]):
    """Parses DocTags; raises ModelReplyError if the reply is anything else or incomplete."""

    options_type: ClassVar[type[InterpreterOptions]] = DocTagsOptions

    def interpret(self, prediction: Prediction, prompt: str = "") -> Document:
        text = reply(prediction, prompt)
        elements = _Page(text, prediction.coordinates).elements
        if not any(element.text or element.rows or element.box for element in elements):
            raise ModelReplyError(f"no DocTags in the reply: {quoted(text)}")
        return Document(tuple(elements), text)


class _Page:
    """Parses DocTags in one pass; keeps the elements in the order in which they start."""

    def __init__(self, text: str, coordinates: CoordinateSpace | None) -> None:
        self.elements: list[Element] = []
        self._coordinates = coordinates
        self._open_tags: list[tuple[str, int]] = []  # tag and index of its element, -1 if none
        position = 0
        for tag in _TAG.finditer(text):
            self._add_text(text[position : tag.start()])
            position = tag.end()
            if tag["verbatim"] and not tag["ended"]:
                self._open_tags.append((tag["verbatim"], -1))
            elif tag["verbatim"]:
                self._verbatim(tag["verbatim"], tag["inside"])
            elif not tag["end"]:
                self._begin(tag["label"])
            elif not self._open_tags or self._open_tags.pop()[0] != tag["label"]:
                raise ModelReplyError(f"unmatched </{tag['label']}> in the reply's DocTags: {quoted(text)}")
        if self._open_tags:
            raise ModelReplyError(f"unclosed <{self._open_tags[-1][0]}> in the reply's DocTags: {quoted(text)}")
        self._add_text(text[position:])

    def _begin(self, label: str) -> None:
        has_element = not re.fullmatch(_CONTAINER, label)
        self._open_tags.append((label, len(self.elements) if has_element else -1))
        if has_element:
            self.elements.append(Element(label, "", None, self._within(outer=2)))

    def _within(self, *, outer: int = 1) -> str:
        tag = self._open_tags[-outer][0] if len(self._open_tags) >= outer else ""
        return "" if tag in {"doctag", "document"} else tag

    def _add_text(self, text: str) -> None:
        """Add the text between two tags to the open element, or as an element of its own."""
        if not text.strip():
            return
        if not self._open_tags:
            if plain := _plain(text):
                raise ModelReplyError(f"text outside DocTags in the reply: {quoted(plain)}")
            return
        label, number = self._open_tags[-1]
        if number < 0:
            self._append("text", text)
            return
        element = self.elements[number]
        content = _IMAGE_KIND.sub("", text) if label in {"picture", "chart"} else text
        joined = f"{element.text} {_plain(content)}".strip()
        self.elements[number] = replace(element, text=joined, box=element.box or self._box(text))

    def _verbatim(self, label: str, inside: str) -> None:
        if label == "otsl":
            rows = tuple(map(tuple, otsl_rows(inside)))
            self.elements.append(Element(label, "", self._box(inside), self._within(), rows))
            for caption in _CAPTION.findall(inside):
                self.elements.append(Element("caption", _plain(caption), self._box(caption), label))
        else:
            self._append(label, inside)

    def _append(self, label: str, text: str) -> None:
        if plain := _MARKUP.sub("", text).strip("\n").rstrip():
            self.elements.append(Element(label, plain, self._box(text), self._within()))

    def _box(self, text: str) -> Box | None:
        found = _LOCATION.match(text)
        if not found or not self._coordinates:
            return None
        grid = replace(self._coordinates, convention=BoxConvention.REL1)
        return grid.box(int(side) / _GRID for side in found.groups())


def _plain(text: str) -> str:
    return " ".join(_MARKUP.sub("", text).split())


def _markdown(element: Element, number: int) -> str:
    """Return one element as Markdown; `number` is its position in its list."""
    match element.label:
        case "page_header" | "page_footer":
            return ""
        case "code":
            return _fenced(marked_code(element.text))
        case "otsl":
            return _pipe_table(element.rows)
        case "picture" | "chart":
            return "\n\n".join(filter(None, ("<!-- image -->", element.text)))
        case "formula":
            return f"$${element.text.strip()}$$"
    return f"{_prefix(element, number)}{element.text}"


def _prefix(element: Element, number: int) -> str:
    """Return the Markdown prefix of a heading or list item."""
    if element.label == "list_item":
        return f"{number}. " if element.within == "ordered_list" else "- "
    if element.label.startswith("section_header"):
        level = int(element.label[-1]) if element.label[-1].isdigit() else 1
        return "#" * (level + 1) + " "  # level 1 is the title
    return "# " if element.label == "title" else ""


def _fenced(code: Code) -> str:
    longest = max(map(len, re.findall("`+", code.text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{code.language.lower()}\n{code.text}\n{fence}"


def _pipe_table(rows: tuple[tuple[str, ...], ...]) -> str:
    width = max(map(len, rows), default=0)
    filled = [row + ("",) * (width - len(row)) for row in rows]
    lines = ["| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in row) + " |" for row in filled]
    return "\n".join([*lines[:1], "|" + " --- |" * width, *lines[1:]]) if lines else ""
