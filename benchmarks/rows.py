"""One figure is one row {name, value, unit, goal, met, command, context}."""

import textwrap

__all__ = ["print_rows", "results_page", "row"]


def row(name: str, value: float, unit: str, command: str, *, goal: str | None = None,
        met: bool | None = None, context: str = "") -> dict:
    """One figure. goal: in words, e.g. ">= 97.5"; met: None where there is no goal."""
    return {"name": name, "value": value, "unit": unit, "goal": goal, "met": met,
            "command": command, "context": context}


def print_rows(rows: list[dict]) -> None:
    """The figures as a plain table on standard output."""
    width = max(len(item["name"]) for item in rows)
    for item in rows:
        goal = "" if item["goal"] is None else \
            f"  goal {item['goal']}: {'met' if item['met'] else 'NOT MET'}"
        print(f"{item['name']:{width}}  {item['value']:10.3f} {item['unit']}{goal}")


def _value(value: float) -> str:
    """Four digits, or all of them where they are in front of the point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def results_page(suite: str, rows: list[dict]) -> str:
    """The rows as a Markdown page."""
    lines = [f"# {suite}", "", f"`{rows[0]['command']}`", ""]
    contexts = list(dict.fromkeys(item["context"] for item in rows if item["context"]))
    for context in contexts:
        lines += [textwrap.fill(context, 100, break_long_words=False), "",
                  "| figure | value | unit | goal | met |", "| --- | ---: | --- | --- | --- |"]
        for item in rows:
            if item["context"] == context:
                met = {None: "", True: "yes", False: "no"}[item["met"]]
                lines.append(f"| {item['name']} | {_value(item['value'])} | {item['unit']} "
                             f"| {item['goal'] or ''} | {met} |")
        lines.append("")
    return "\n".join(lines)
