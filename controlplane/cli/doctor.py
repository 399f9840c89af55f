"""`inferctl doctor`: what this host lacks to run the configuration well, and what to do about it; changes nothing."""

import pynvml
import typer
from rich.console import RenderableType
from rich.text import Text

from controlplane.cli.options import CONFIG_PATH, ConfigOption, JsonOption
from controlplane.cli.outcome import ExitCode, answering
from controlplane.doctor.finding import Finding, Level
from controlplane.doctor.findings import examine
from controlplane.doctor.look import look
from controlplane.settings import load

_STYLES = {Level.GOOD: "green", Level.NOTE: "cyan", Level.WARNING: "yellow", Level.PROBLEM: "bold red"}


def doctor(config: ConfigOption = CONFIG_PATH, as_json: JsonOption = False) -> None:
    """Look at this host: driver, memory, Docker, folders, limits. Ends with 1 when something will not work."""
    with answering(as_json) as answer:
        found = examine(look(load(config), pynvml))
        rows = [{"subject": f.subject, "level": f.level.value, "seen": f.seen, "remedy": f.remedy} for f in found]
        works = all(finding.level is not Level.PROBLEM for finding in found)
        answer.give({"ok": works, "findings": rows}, *_shown(found, works=works))
        if not works:
            raise typer.Exit(ExitCode.FAILED)


def _shown(found: list[Finding], *, works: bool) -> list[RenderableType]:
    lines = [
        Text.assemble((f"{f.level.value:8}", _STYLES[f.level]), f"{f.subject}: {f.seen}", _remedy(f)) for f in found
    ]
    verdict = "this host can run the configuration" if works else "something will not work: see the problems above"
    return [*lines, "", Text(verdict, style="bold")]


def _remedy(finding: Finding) -> str:
    return f"\n{'':8}→ {finding.remedy}" if finding.remedy else ""
