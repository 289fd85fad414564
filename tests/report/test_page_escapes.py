"""Whatever stands in a record, a path or an error's message is text in the page, never a part of the page."""

import re
from html.parser import HTMLParser

import pytest

from experiments.kit.findings import Finding, Question
from experiments.report import evidence, page
from tests.kit.fixed import fixed

HOSTILE = {
    "a script": "<script>alert(1)</script>",
    "an image that runs": "<img src=x onerror=alert(1)>",
    "the end of a double-quoted attribute": '"><svg onload=alert(1)>',
    "the end of a single-quoted attribute": "' onmouseover='alert(1)",
    "an attribute of the tag it stands in": '" style="position:fixed" onclick="alert(1)',
    "the end of the styles": "</style></title></textarea><script>alert(1)</script>",
    "the end of a comment": "--><script>alert(1)</script><!--",
    "the end of character data": "]]><script>alert(1)</script><![CDATA[",
    "an address that runs": "javascript:alert(1)",
    "code that is a script": "``<script>alert(1)</script>``",
    "an arXiv number that is a script": 'arXiv 2503.01067"><script>alert(1)</script>',
    "a character reference": "&lt;script&gt;alert(1)&lt;/script&gt;",
    "a template": "{{ 7 * 7 }}{% include 'page.html.jinja' %}",
    "a policy of its own": '<meta http-equiv="Content-Security-Policy" content="default-src *">',
    "another base": '<base href="https://example.org/">',
}
PLAIN = "plain"


class Parsed(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)


def made(text):
    """The page of evidence with this text in every field that holds any."""
    claims = [
        Finding(text, fixed(1.0, 2.0), text, 0.0, "above", primary=True),
        Finding(f"also {text}", fixed(1.0, 2.0), text, 0.0, "at", control=True, margin=0.5),
    ]
    # Two of them: the findings of one that ran on transformers too are set side by side, in another table.
    sides = [
        evidence.Evidence(
            name=text, backend=backend, question=text, setting=text,
            about=Question(text, text, text, text), captions={text: text}, preset=text, folder=text, command=text,
            problems=[text], notes=[text], findings=claims, pictures=[evidence.Picture(text, text, b"png")],
            listings=[evidence.Listing(text, 3, text)], origin={text: text},
        )
        for backend in ("tree", "transformer")
    ]  # fmt: skip
    return [Parsed(page.page(shown)) for shown in (sides[:1], sides)]


@pytest.mark.parametrize("what", HOSTILE)
def test_a_text_stays_a_text_wherever_it_reaches(what):
    for found, plain in zip(made(HOSTILE[what]), made(PLAIN), strict=True):
        shown = [each for each in found.tags if each[0] not in ("code", "a")]
        assert [tag for tag, _ in shown] == [tag for tag, _ in plain.tags if tag not in ("code", "a")]
        names = {(tag, name) for tag, attributes in found.tags for name in attributes}
        assert names == {(tag, name) for tag, attributes in plain.tags for name in attributes}
        for _, attributes in found.tags:
            assert re.match(
                r"#|https://arxiv\.org/abs/\d{4}\.\d{5}$|data:text/csv;base64,", attributes.get("href", "#")
            )
            assert attributes.get("src", "data:image/png;base64,").startswith("data:image/png;base64,")
        words = "".join(found.words) + " ".join(str(attributes) for _, attributes in found.tags)
        assert "alert(1)" in words or "alert" not in HOSTILE[what]


def test_a_page_may_load_and_run_nothing():
    _, head = made(PLAIN)
    policies = [each["content"] for tag, each in head.tags if tag == "meta" and "http-equiv" in each]
    assert policies == [
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    ]
    before = [tag for tag, _ in head.tags[: [tag for tag, _ in head.tags].index("style")]]
    assert before == ["html", "head", "meta", "meta", "meta", "meta", "title"], "the policy is read before all it is on"


def test_a_path_that_is_no_text_is_shown_in_a_page_of_utf_8():
    found, _ = made("caf\udce9")
    assert "caf\\udce9" in "".join(found.words)
