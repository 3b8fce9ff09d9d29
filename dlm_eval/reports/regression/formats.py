"""A check as text, Markdown (a job summary or the body of a pull-request comment), JUnit XML and
GitHub annotations. Names and reasons are untrusted and escaped in each.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from xml.etree import ElementTree

from dlm_eval.output import one_line, table
from dlm_eval.printable import counted, printable
from dlm_eval.printable import markdown as escaped
from dlm_eval.redaction import redact_text
from dlm_eval.reports.regression.check import Report
from dlm_eval.reports.regression.findings import BROKEN, CHANGED, NOTE, REGRESSION, UNPROVEN
from dlm_eval.reports.regression.task_checks import PAIRED, TaskCheck

MARKER = "<!-- dlm-eval check -->"  # by which a bot finds its comment
HEADERS = (
    "task", "metric", "n", "baseline", "run", "change", "lower bound", "p (harm)",
    "smallest drop seen", "margin", "better / worse", "answers changed", "forwards",
)  # fmt: skip
LEVELS = {
    BROKEN: "error",
    REGRESSION: "error",
    UNPROVEN: "warning",
    CHANGED: "warning",
    NOTE: "notice",
}
MOST_ANNOTATIONS = 10  # GitHub shows no more of a step
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def text(report: Report) -> Iterator[str]:
    """Yields the lines of a check for a terminal."""
    yield one_line(f"baseline  {report.baseline.source}  {report.baseline.date or ''}")
    yield one_line(f"run       {report.run.source}  {report.run.date or ''}")
    yield ""
    yield from table([_cells(task) for task in report.tasks], HEADERS).splitlines()
    yield ""
    for finding in report.findings:
        where = f"{finding.task}: " if finding.task else ""
        yield one_line(f"{finding.kind}: {where}{finding.text}")
    yield one_line(f"check: {summary(report)}")


def summary(report: Report) -> str:
    """Returns the result in one line."""
    failures = len(report.failures())
    rules = f"alpha {report.rules.alpha:g}, margin {report.rules.margin:g}"
    rules += ", strict" if report.rules.strict else ""
    failing = "" if not failures else f", {failures} failing"
    return f"{report.verdict} ({counted(len(report.tasks), 'task')}{failing}; {rules})"


def _cells(task: TaskCheck) -> list[str]:
    unit = " nats" if task.scale == "nats" else ""
    return [
        task.task,
        task.metric,
        str(task.n),
        f"{task.old:.4f}",
        f"{task.new:.4f}",
        f"{task.change:+.4f}{unit}",
        f"{task.low:+.4f}",
        f"{task.p:.2g}",
        _drop(task.smallest),
        f"{task.margin:.4g}",
        f"{task.better} / {task.worse}" if task.test == PAIRED else "",
        str(task.changed),
        "" if task.forwards is None else f"{task.forwards:.2f}x",
    ]


def _drop(smallest: float) -> str:
    """Returns the smallest drop that a test finds as text; 'none' if the task is too small."""
    if math.isnan(smallest):
        return ""
    return "none" if math.isinf(smallest) else f"{smallest:.4f}"


def markdown(report: Report) -> str:
    """Returns a check as Markdown, with a marker in the first line."""
    sign = {0: "✅", 1: "💥", 3: "❌"}[report.code]
    rows = [[_escaped(cell) for cell in _cells(task)] for task in report.tasks]
    align = ("left", "left", *["right"] * (len(HEADERS) - 2))
    parts = [MARKER, f"### {sign} dlm-eval check: {_escaped(summary(report))}", ""]
    parts += [table(rows, HEADERS, tablefmt="github", colalign=align if rows else ()), ""]
    for finding in report.findings:
        where = f"`{_code(finding.task)}` " if finding.task else ""
        parts.append(f"* **{finding.kind}** {where}{_escaped(finding.text)}")
    sources = f"Baseline {report.baseline.source}, run {report.run.source}"
    return "\n".join([*parts, "", f"<sub>{_escaped(sources)}</sub>", ""])


def markdown_mistake(reason: str) -> str:
    """Returns a check that a mistake has prevented as Markdown."""
    return f"{MARKER}\n### ⚠️ dlm-eval check: nothing checked\n\n{_escaped(one_line(reason))}\n"


def github_mistake(reason: str) -> str:
    """Returns the annotation of a check that a mistake has prevented."""
    return f"::error title=dlm-eval check::{_data(reason)}"


def _escaped(value: str) -> str:
    return escaped(redact_text(value))


def _code(value: str) -> str:
    return printable(value).replace("`", "'")


def junit(report: Report) -> str:
    """Returns a check as JUnit XML, one test case per task and one for the run."""
    failing = report.failures()
    names = ["run", *(name for name in report.baseline.tasks)]
    suite = ElementTree.Element(
        "testsuite", name="dlm-eval check", tests=str(len(names)), failures="0", errors="0"
    )
    counts = {"failures": 0, "errors": 0}
    for name in names:
        case = ElementTree.SubElement(
            suite, "testcase", classname="dlm_eval.check", name=_xml(name)
        )
        task = "" if name == "run" else name
        own = [finding for finding in report.findings if finding.task == task]
        bad = [finding for finding in own if finding in failing]
        if bad:
            kind = "error" if any(finding.kind == BROKEN for finding in bad) else "failure"
            counts[f"{kind}s"] += 1
            node = ElementTree.SubElement(case, kind, type=bad[0].kind, message=_xml(bad[0].text))
            node.text = _xml("\n".join(f"{finding.kind}: {finding.text}" for finding in bad))
        if notes := [finding for finding in own if finding not in bad]:
            out = ElementTree.SubElement(case, "system-out")
            out.text = _xml("\n".join(f"{finding.kind}: {finding.text}" for finding in notes))
    for name, count in counts.items():
        suite.set(name, str(count))
    suites = ElementTree.Element("testsuites")
    suites.append(suite)
    ElementTree.indent(suites)
    written = ElementTree.tostring(suites, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{written}\n'


def _xml(value: str) -> str:
    return NOT_XML.sub("\ufffd", redact_text(value))


def github_annotations(report: Report) -> Iterator[str]:
    """Yields GitHub workflow commands, the most severe findings first."""
    order = list(LEVELS)
    findings = sorted(report.findings, key=lambda finding: order.index(finding.kind))
    for finding in findings[:MOST_ANNOTATIONS]:
        level = LEVELS[finding.kind]
        title = _property(f"dlm-eval check: {finding.task or 'run'}")
        yield f"::{level} title={title}::{_data(f'{finding.kind}: {finding.text}')}"


def _data(value: str) -> str:
    """Returns text as the data of a workflow command, which `%`, CR and LF would end or change."""
    return one_line(value).replace("%", "%25")


def _property(value: str) -> str:
    return _data(value).replace(":", "%3A").replace(",", "%2C")
