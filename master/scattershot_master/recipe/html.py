"""Owns the page of a recipe: one HTML file that explains each decision, without scripts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Literal

from scattershot_common.task.check_result import CheckResult

Outcome = Literal["done", "stopped"]

_STYLE = """
body { font: 16px/1.55 system-ui, sans-serif; color: #222; background: #fff; margin: 0 auto;
       max-width: 780px; padding: 28px 20px 60px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 20px; margin: 44px 0 6px; }
.lead { color: #555; margin: 0 0 14px; } .asked { color: #555; margin: 0 0 12px; }
.box { border-left: 4px solid #009e73; background: #f1f8f5; padding: 10px 16px; margin: 14px 0; }
.box.stopped { border-color: #d55e00; background: #fdf3ec; }
.result { margin: 10px 0; } .result p { margin: 2px 0; } .detail { color: #666; font-size: 14px; }
.status { display: inline-block; min-width: 62px; font-weight: 600; } .pass { color: #00794f; }
.warn { color: #a86500; } .fail { color: #c03a00; } .skipped { color: #777; }
code, pre { font: 14px/1.5 ui-monospace, monospace; } pre { background: #f6f6f6; padding: 14px 16px;
      overflow-x: auto; } svg { width: 100%; height: auto; margin: 12px 0 4px; display: block; }
"""


@dataclass
class Step:
    """One step: what it asks, what was found, what was decided because of it, and charts (SVG)."""

    title: str
    asks: str
    checks: list[CheckResult] = field(default_factory=list)
    found: list[str] = field(default_factory=list)
    decided: str = ""
    outcome: Outcome = "done"
    charts: list[str] = field(default_factory=list)


def page(study: str, lead: str, steps: Sequence[Step], file: tuple[str, str] | None) -> str:
    """Return the page of the recipe for `study`; `file` is the path and text of what it wrote."""
    body = [f"<h1>Recipe for {escape(study)}</h1>", f'<p class="lead">{escape(lead)}</p>']
    for number, step in enumerate(steps, 1):
        body += _section(number, step)
    if file:
        body += [
            "<h2>The study file</h2>",
            f'<p class="asked">{escape(file[0])}</p>',
            f"<pre>{escape(file[1])}</pre>",
            f"<p>To run it: <code>scattershot run {escape(file[0])}</code></p>",
        ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Recipe for {escape(study)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _section(number: int, step: Step) -> list[str]:
    parts = [
        f"<h2>{number}. {escape(step.title)}</h2>",
        f'<p class="asked">{escape(step.asks)}</p>',
    ]
    for result in step.checks:
        parts.append(
            f'<div class="result"><p><span class="status {result.status}">{result.status}</span>'
            f"<b>{escape(result.name)}</b> · {escape(result.found)}</p>"
        )
        for kind, said in result.lines():
            mark = "→ " if kind == "remedy" else ""
            parts.append(f'<p class="{kind}">{mark}{escape(said)}</p>')
        parts.append("</div>")
    parts += [f"<p>{escape(one)}</p>" for one in step.found]
    parts += step.charts
    if step.decided:
        kind = "box stopped" if step.outcome == "stopped" else "box"
        parts.append(f'<div class="{kind}">{escape(step.decided)}</div>')
    return parts
