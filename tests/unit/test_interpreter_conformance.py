"""Every built-in interpreter meets the interpreter contract."""

from __future__ import annotations

import re
from typing import Any

import pytest

from bibwatch.domain.box import Box
from bibwatch.domain.candidates import Candidate, Source
from bibwatch.interpreters.bib_json import BibJson, BibJsonOptions
from bibwatch.interpreters.bib_lines import BibLines, BibLinesOptions
from bibwatch.interpreters.code_block import Code, CodeBlock, CodeBlockOptions
from bibwatch.interpreters.doctags import DocTags, DocTagsOptions, Document, Element
from bibwatch.interpreters.plain_text import PlainText, PlainTextOptions
from bibwatch.interpreters.replies import clean
from bibwatch.interpreters.table import Table, TableLines, TableLinesOptions, TableText, TableTextOptions
from bibwatch.runtimes.base import Prediction, TextLine
from bibwatch.testing.interpreters import InterpreterConformance, strings_of


def replied(text: str) -> Prediction:
    return Prediction(text=text)


def seen(*lines: tuple[str, float, float]) -> Prediction:
    return Prediction(lines=tuple(TextLine(text, 0.99, Box(x, y, x + 100, y + 30)) for text, x, y in lines))


_TABLE = Table(("Place", "Bib"), (("1", "0042"), ("2", "M1234")))


class TestBibJson(InterpreterConformance):
    good = (
        (
            replied('{"bibs": [{"number": "0042"}, {"number": "M1234"}]}'),
            (Candidate("0042", 0.5), Candidate("M1234", 0.5)),
        ),
        (replied('```json\n{"bib": 0042}\n```'), (Candidate("0042", 0.5),)),
        (replied('{"bibs": []}'), ()),
    )
    bad = (*InterpreterConformance.bad, '{"bibs": [], "error": "The image is too dark."}', "{}")

    def make(self) -> BibJson:
        return BibJson(BibJsonOptions())

    def is_empty(self, value: Any, prediction: Prediction) -> bool:
        """No bibs is valid if the reply has an empty list, null or the like."""
        reports_none = re.search(r'\[\s*\]|null|none|n/a|no bib|"\s*"|\d', clean(prediction.text), re.IGNORECASE)
        return not value and not reports_none


class TestBibLines(InterpreterConformance):
    good = (
        (
            seen(("0042", 10, 10), ("FINISH", 10, 90)),
            (Candidate("0042", 0.99, Box(10, 10, 110, 40), source=Source.LINE),),
        ),
    )

    def make(self) -> BibLines:
        return BibLines(BibLinesOptions())

    def is_empty(self, value: Any, prediction: Prediction) -> bool:
        """Most lines of text have no digit."""
        return False


class TestPlainText(InterpreterConformance):
    bad = ()  # any reply is valid text
    good = ((replied("A runner."), "A runner."), (replied("```markdown\n# Results\n```"), "# Results"))

    def make(self) -> PlainText:
        return PlainText(PlainTextOptions())


class TestCodeBlock(InterpreterConformance):
    good = (
        (replied("Here it is:\n```python\nif x:\n    y()\n```\nDone."), Code("python", "if x:\n    y()")),
        (replied("<_Python_> print(42)"), Code("Python", "print(42)")),
        (replied("print(42)"), Code("", "print(42)")),
    )
    bad = (*InterpreterConformance.bad, "I cannot see any code.")

    def make(self) -> CodeBlock:
        return CodeBlock(CodeBlockOptions())

    def is_empty(self, value: Any, prediction: Prediction) -> bool:
        return not value.text.strip()


class _Tables(InterpreterConformance):
    bad = (*InterpreterConformance.bad, "There is no table, sorry.\nThe photo shows runners, cheering.")

    def is_empty(self, value: Any, prediction: Prediction) -> bool:
        widths = {len(row) for row in value.rows}
        assert len(widths) == 1
        assert not value.header or widths == {len(value.header)}
        return not all(any(row) for row in value.rows)


class TestTableText(_Tables):
    good = (
        (replied("| Place | Bib |\n|---|---:|\n| 1 | 0042 |\n| 2 | M1234 |"), _TABLE),
        (replied("Place,Bib\n1,0042\n2,M1234"), _TABLE),
        (replied('[{"Place": 1, "Bib": 0042}, {"Place": 2, "Bib": "M1234"}]'), _TABLE),
        (replied("<otsl><ched>Place<ched>Bib<nl><fcel>1<fcel>0042<nl><fcel>2<fcel>M1234<nl></otsl>"), _TABLE),
        (
            replied("<table><tr><th>Place<th>Bib</tr><tr><td>1</td><td>0042</td></tr><tr><td>2<td>M1234</table>"),
            _TABLE,
        ),
    )

    def make(self) -> TableText:
        return TableText(TableTextOptions())


class TestTableTextWithoutHeader(TestTableText):
    good = ((replied("1,0042\n2,M1234"), Table((), _TABLE.rows)),)

    def make(self) -> TableText:
        return TableText(TableTextOptions(header=False))


class TestTableLines(_Tables):
    good = (
        (
            seen(("Place", 0, 0), ("Bib", 200, 2), ("1", 0, 50), ("0042", 200, 50), ("M1234", 200, 99), ("2", 0, 100)),
            _TABLE,
        ),
    )

    def make(self) -> TableLines:
        return TableLines(TableLinesOptions())


class TestDocTags(InterpreterConformance):
    good = (
        (
            replied("<doctag><title>Results</title>\n<text>Two runners.</text></doctag>"),
            Document(
                (Element("title", "Results", None), Element("text", "Two runners.", None)),
                "<doctag><title>Results</title>\n<text>Two runners.</text></doctag>",
            ),
        ),
    )

    def make(self) -> DocTags:
        return DocTags(DocTagsOptions())

    def is_empty(self, value: Any, prediction: Prediction) -> bool:
        value.markdown().encode()  # never fails
        return not value.elements


class _Sloppy(PlainText):
    """A faulty interpreter that trusts the model."""

    def interpret(self, prediction: Prediction, prompt: str = "") -> str:
        return {"42": "forty-two"}[prediction.text]


class TestTheConformanceTestsThemselves:
    """They fail for an interpreter that breaks the contract."""

    class Sloppy(InterpreterConformance):
        __test__ = False
        good = ((replied("42"), "forty-two"),)

        def make(self) -> PlainText:
            return _Sloppy(PlainTextOptions())

    def test_other_exceptions_are_found(self) -> None:
        with pytest.raises(KeyError):
            self.Sloppy().test_any_prediction_has_a_value_or_raises_a_reply_error()

    def test_accepting_a_truncated_reply_is_found(self) -> None:
        self.Sloppy().test_good_predictions_have_the_expected_values()
        with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
            self.Sloppy().test_a_truncated_reply_raises_a_truncation_error()

    def test_accepting_a_reply_without_an_answer_is_found(self) -> None:
        class Trusting(self.Sloppy):  # type: ignore[misc, name-defined]
            def make(self) -> PlainText:
                return PlainText(PlainTextOptions())

        with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
            Trusting().test_a_reply_without_an_answer_is_an_error()

    def test_a_class_without_good_predictions_is_found(self) -> None:
        with pytest.raises(AssertionError, match="defines no good prediction"):
            InterpreterConformance().test_good_predictions_have_the_expected_values()


def test_strings_of_is_recursive() -> None:
    document = Document((Element("otsl", "a", None, rows=(("b", "c"),)),), "d")
    assert set(strings_of({"e": [document]})) == {"a", "b", "c", "d", "e", "otsl", ""}
