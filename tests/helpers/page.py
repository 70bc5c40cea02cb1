"""Reports as tests read them, and changes to the runs that they are of."""

import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

from wavetune.reporting import write_report

VOID = {"meta", "br", "img", "line", "rect", "path", "input"}
HOSTILE = '</pre></style><script>steal()</script><img src=x onerror="steal()"> {{ 7 * 7 }} {% raw %} & "quoted"'


class Page(HTMLParser):
    """Check that tags balance, and collect ids, links, tags and the words a reader sees."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.links, self.words = [], [], [], [], []
        self.attributes, self.files = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id"]
        links = [value for name, value in attrs if name in ("href", "src", "action", "srcset", "poster")]
        self.links += [link for link in links if not link.startswith("data:")]
        self.files += [(dict(attrs)["download"], link) for link in links if link.startswith("data:")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.words.append(data)


def drawings(text):
    return [ElementTree.fromstring(match) for match in re.findall(r"<svg.*?</svg>", text, re.S)]


def page_of(folders, tmp_path):
    return write_report(folders, tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def rewrite_rounds(folder, change):
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    change(lines)
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def edit_summary(folder, **fields):
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | fields))
