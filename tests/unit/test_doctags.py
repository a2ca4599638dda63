"""`doctags`: pages in SmolDocling's markup."""

from __future__ import annotations

import pytest

from bibwatch.domain.box import Box
from bibwatch.errors import ModelReplyError
from bibwatch.interpreters.doctags import DocTags, DocTagsOptions, Document, Element
from bibwatch.runtimes.base import BoxConvention, CoordinateSpace, Prediction

_FRAME = CoordinateSpace(BoxConvention.NONE, 1000, 2000, sent=(500, 1000))

_PAGE = """<doctag><page_header><loc_15><loc_10><loc_30><loc_35>City Run</page_header>
<title><loc_50><loc_50><loc_450><loc_75>Results</title>
<section_header_level_1><loc_50><loc_80><loc_450><loc_90>Men</section_header_level_1>
<text>First of all,
thanks.</text>
<unordered_list><list_item><loc_1><loc_2><loc_3><loc_4>Anna</list_item>
<list_item>Berta</list_item>
</unordered_list>
<ordered_list><list_item>One</list_item><list_item>Two</list_item></ordered_list>
<otsl><loc_50><loc_100><loc_450><loc_200><ched>Place<ched>Bib<ched>Name<nl><fcel>1<fcel>0042<ecel><nl>\
<fcel>2<fcel>M1234<fcel>A | B<nl><caption>Table 1</caption></otsl>
<picture><loc_0><loc_0><loc_500><loc_500><bar_chart><caption>A chart</caption></picture>
<code><_Python_>if a < b:
    print("<text>")</code>
<formula>x < y</formula>
<section_header_level_2>Women</section_header_level_2>
<footnote>1 Unofficial.</footnote>
<page_break>
<page_footer>7</page_footer>
</doctag><end_of_utterance>"""

_MARKDOWN = """# Results

## Men

First of all, thanks.

- Anna
- Berta

1. One
2. Two

| Place | Bib | Name |
| --- | --- | --- |
| 1 | 0042 |  |
| 2 | M1234 | A \\| B |

Table 1

<!-- image -->

A chart

```python
if a < b:
    print("<text>")
```

$$x < y$$

### Women

1 Unofficial."""


def read(text: str, coordinates: CoordinateSpace | None = _FRAME) -> Document:
    return DocTags(DocTagsOptions()).interpret(Prediction(text=text, coordinates=coordinates))


def test_a_whole_page_as_markdown() -> None:
    assert read(_PAGE).markdown() == _MARKDOWN


def test_its_elements_in_order() -> None:
    labels = [element.label for element in read(_PAGE).elements]
    assert labels == [
        *("page_header", "title", "section_header_level_1", "text", "list_item", "list_item", "list_item", "list_item"),
        *(
            "otsl",
            "caption",
            "picture",
            "caption",
            "code",
            "formula",
            "section_header_level_2",
            "footnote",
            "page_footer",
        ),
    ]


def test_boxes_are_in_pixels_of_the_image() -> None:
    elements = read(_PAGE).elements
    assert elements[1] == Element("title", "Results", Box(100, 200, 900, 300))
    assert elements[3].box is None
    assert elements[8].box == Box(100, 400, 900, 800)
    assert elements[10].box == Box(0, 0, 1000, 2000)
    assert all(element.box is None for element in read(_PAGE, coordinates=None).elements)


def test_table_rows_and_enclosing_tags() -> None:
    elements = read(_PAGE).elements
    assert elements[8].rows == (("Place", "Bib", "Name"), ("1", "0042", ""), ("2", "M1234", "A | B"))
    assert [element.within for element in elements[4:12]] == [
        *("unordered_list", "unordered_list", "ordered_list", "ordered_list", "", "otsl", "", "picture"),
    ]


def test_the_source_is_kept() -> None:
    assert read(_PAGE).source == _PAGE.removesuffix("<end_of_utterance>")


def test_text_outside_elements_is_kept() -> None:
    document = read("<doctag>Anna<unordered_list>Berta</unordered_list></doctag>")
    assert [(element.label, element.text) for element in document.elements] == [("text", "Anna"), ("text", "Berta")]


def test_the_enclosing_tag_is_optional() -> None:
    assert read("<text>Anna</text>\n<text>Berta</text>").markdown() == "Anna\n\nBerta"


def test_code_that_contains_fences_gets_a_longer_fence() -> None:
    assert read("<code><_Markdown_>```\na\n```</code>").markdown() == "````markdown\n```\na\n```\n````"


def test_page_breaks_are_not_text() -> None:
    assert read("<text>Anna</text><page_break><text>Berta</text><page_break>").markdown() == "Anna\n\nBerta"


@pytest.mark.parametrize(
    "text",
    [
        *("Just some prose.", "<doctag></doctag>", "<doctag>\n<text></text></doctag>", "<html><p>Anna</p></html>"),
        *(
            "<doctag><text>Anna</text>",
            "<doctag><text>Anna",
            "<text>Anna</doctag>",
            "</text>",
            "<text>Anna</text></text>",
            "Here it is: <text>Anna</text>",
            "<text>Anna</text> lost",
            "<doctag><text>Anna</text></doctag> lost",
        ),
        *("<doctag><otsl><fcel>1<nl></doctag>", "<doctag><code>x</doctag>", "<otsl>" * 2000),
    ],
)
def test_invalid_or_incomplete_doctags_are_an_error(text: str) -> None:
    with pytest.raises(ModelReplyError):
        read(text)
