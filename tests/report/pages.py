"""Evidence of every kind that a page must show, without any record: its numbers are stated by the tests."""

import io
from html.parser import HTMLParser

import matplotlib.pyplot as plt

from experiments.kit.backends import everywhere, on_backend
from experiments.kit.findings import Finding
from experiments.questions import questions
from experiments.report.evidence import Evidence, Picture, words_of
from tests.kit.fixed import fixed

CLAIM = Finding("it is large", fixed(1.0, 2.0), "nats", 0.0, "above", primary=True)
CONTROL = Finding("it is level", fixed(-0.1, 0.1), "nats", 0.0, "at", control=True, margin=0.5)


def png():
    """A small figure."""
    made = io.BytesIO()
    figure = plt.figure(figsize=(2, 1))
    figure.savefig(made, format="png")
    plt.close(figure)
    return made.getvalue()


def asked(name, backend="tree", findings=(CLAIM, CONTROL), pictures=1, **changes):
    """Evidence of a real question, or of one called after it, with these findings; without any it is missing."""
    module = on_backend(questions(), backend).get(name) or questions()["equivalence"]
    there = bool(findings)
    drawn = [Picture(f"{name}_{number}", f"Figure {number} of {name}.", png()) for number in range(pictures * there)]
    option = "" if backend == "tree" else f" --backend {backend}"
    evidence = Evidence(
        name, backend, *words_of(module), module.QUESTION, {}, "quick", f"results/{name}",
        f"python -m experiments run {name}{option} --preset quick", [] if there else ["There are no records."], [],
        list(findings), drawn, [], {"made": "today"} if there else {},
    )  # fmt: skip
    return evidence._replace(**changes)


def missing():
    """Evidence of all questions on all backends, none of which was run."""
    return [asked(name, backend, ()) for name, backend, _ in everywhere(questions())]


def whole():
    """All questions, some of them measured: on both sides, on one, with no finite interval, with several figures."""
    nan = float("nan")
    endless = CLAIM._replace(estimate=fixed(nan, nan, estimate=2.0), predicted=3.0)
    there = [
        asked("h1_information", findings=(CLAIM._replace(estimate=fixed(-2, -1)), CONTROL), pictures=3),
        asked("main_table", findings=(CLAIM._replace(estimate=fixed(1, 2, seeds=3)), CONTROL)),
        asked("main_table", "transformer", findings=(CLAIM._replace(predicted=1.7),)),
        asked("h6b_horizon", "transformer"),
        asked("h2_regularisation", findings=(endless, CONTROL._replace(estimate=fixed(-9, 9)))),
        asked("h4_data", findings=(CLAIM._replace(bound=1.5, direction="at", margin=0.6),)),
        asked("rival_sparse", findings=(CLAIM._replace(bound=9.0, direction="at", margin=0.6),), notes=["A note."]),
        asked("estimators", problems=["The figures cannot be drawn."], pictures=0),
    ]
    measured = {each.key for each in there}
    return [*there, *(each for each in missing() if each.key not in measured)]


class Page(HTMLParser):
    """What a page is made of: its tags with their attributes, its words, and the words of each heading and card."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.headings, self.cards, self._open = [], [], [], {}, []
        self.feed(text)
        self.close()
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag == "article":
            self._open.append(attributes["id"])
            self.cards[attributes["id"]] = ""
        if tag[0] == "h" and tag[1:].isdigit():
            self.headings.append(int(tag[1:]))

    def handle_endtag(self, tag):
        if tag == "article":
            self._open.pop()

    def handle_data(self, data):
        self.words.append(data)
        for card in self._open:
            self.cards[card] += " ".join(data.split()) + " "

    def all(self, wanted):
        """The attributes of all tags of a name."""
        return [attributes for tag, attributes in self.tags if tag == wanted]
