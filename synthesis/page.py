"""report.html of a synthesis: resources, the clock per seed, the critical path (bokeh)."""

from html import escape
from pathlib import Path

from cli.training.report import BLUE, GREEN, RED
from synthesis.report import RESOURCES, names_of

__all__ = ["write_page"]

WIDTH, HEIGHT = 560, 230
STYLE = """
<style>
.ls { font: 14px/1.45 system-ui, sans-serif; color: #222; }
.ls h2 { margin: 0.2em 0; } .ls h3 { margin: 0.9em 0 0.3em; }
.ls p { margin: 0.3em 0; max-width: 70em; }
.ls table { border-collapse: collapse; }
.ls td, .ls th { padding: 2px 14px 2px 0; border-bottom: 1px solid #ddd; text-align: left;
                 vertical-align: top; }
.ls td.n, .ls th.n { text-align: right; font-variant-numeric: tabular-nums; }
.ls code { font-size: 13px; overflow-wrap: anywhere; }
.ls .bad { color: #b00; font-weight: 600; }
</style>
"""


def write_page(path: Path, report: dict) -> None:
    """Write the page of one report.json."""
    from bokeh.embed import file_html
    from bokeh.layouts import column, row
    from bokeh.models import Div
    from bokeh.resources import INLINE

    width = 2 * WIDTH
    plots = [_resources(report)]
    if report.get("seeds"):
        plots.append(_seeds(report))
    tables = [_resource_table(report)]
    if report.get("seeds"):
        tables.append(_seed_table(report))
    parts = [Div(text=_html(_head(report)), width=width), row(*plots)]
    parts += [Div(text=_html(table), width=width) for table in tables]
    if report.get("critical_path"):
        parts.append(Div(text=_html(_path_table(report["critical_path"])), width=width))
    if report.get("units"):
        parts.append(Div(text=_html(_unit_table(report["units"])), width=width))
    parts.append(Div(text=_html(_facts(report)), width=width))
    title = f"{report['top']} of {report['target']}"
    path.write_text(file_html(column(*parts), INLINE, title=title))


def _html(text: str) -> str:
    return f"{STYLE}<div class='ls'>{text}</div>"


def _table(head: list[str], rows: list[list], numbers: set[int] = frozenset()) -> str:
    def line(cells, tag):
        return "<tr>" + "".join(
            f"<{tag}{' class=n' if at in numbers else ''}>{cell}</{tag}>"
            for at, cell in enumerate(cells)) + "</tr>"
    return "<table>" + line(head, "th") + "".join(line(cells, "td") for cells in rows) + "</table>"


def _head(report: dict) -> str:
    name = f"<h2>{report['top']} of {report['target']}</h2>"
    device = report["device"] + (f", {report['package']}, speed grade {report['speed_grade']}"
                                 if "package" in report else "")
    if not report["fits"]:
        clock = "<span class=bad>larger than the device</span>"
    elif report["fmax_mhz"] is None:
        clock = "fits; " + report["fmax_note"]
    else:
        goal = report["goal_mhz"]
        met = "" if goal is None else f", goal {goal} MHz: " + (
            "met" if report["fmax_mhz"] >= goal else "<span class=bad>not met</span>")
        n = len(report["seeds"])
        of = f", the median of {n} seeds" if n > 1 else ", one seed"
        clock = f"<b>{report['fmax_mhz']} MHz</b>{of}{met}"
    return f"{name}<p>{device}: {clock}</p>"


def _resource_table(report: dict) -> str:
    names = names_of(report)
    rows = [[names[key], report[key], report["available"][key], f"{report['percent'][key]} %"]
            for key in RESOURCES]
    return "<h3>Resources</h3>" + _table(["", "used", "available", ""], rows, {1, 2, 3})


def _seed_table(report: dict) -> str:
    rows = [[seed["seed"], seed["fmax_mhz"], seed["critical_path"]["ns"],
             f"<code>{escape(seed['critical_path']['from'])} &rarr; "
             f"{escape(seed['critical_path']['to'])}</code>",
             _ns(seed["ports"]["input_ns"]), _ns(seed["ports"]["output_ns"]),
             seed["place_route_s"]] for seed in report["seeds"]]
    return ("<h3>Seeds</h3>" + _table(
        ["seed", "MHz", "ns", "critical path", "inputs, ns", "outputs, ns", "place and route, s"],
        rows, {0, 1, 2, 4, 5, 6})
        + "<p>Critical paths run from register to register inside the unit. Inputs and outputs: "
          "the slowest path between a register outside and one inside.</p>")


def _path_table(path: dict) -> str:
    rows = [[f"<code>{escape(step['signal'])}</code>", f"{step['logic_ns']:.2f}",
             f"{step['routing_ns']:.2f}", escape(step["source"])] for step in path["steps"]]
    return (f"<h3>Critical path of the median seed</h3><p>{path['ns']} ns: {path['logic_ns']} "
            f"logic, {path['routing_ns']} routing</p>" + _table(
                ["signal", "logic, ns", "routing, ns", "Verilog"], rows, {1, 2}))


def _unit_table(units: list[dict]) -> str:
    rows = [[f"<code>{escape(unit['unit'])}</code>", *(unit[key] for key in RESOURCES)]
            for unit in units]
    return ("<h3>Submodules</h3>" + _table(["", "LUT4", "flip-flops", "MULT18X18D", "DP16KD"],
                                           rows, {1, 2, 3, 4})
            + "<p>Cells by name before packing, without the registers that lie in block RAM. A "
              "lookup table carries the name of what it drives, so that column is an estimate.</p>")


def _facts(report: dict) -> str:
    facts = {"command": report["command"], "configuration id":
             f"0x{report['configuration_id']:08x}", "Verilog sha256": report["verilog_sha256"],
             "tools": ", ".join(f"{name} {version}" for name, version in report["tools"].items()),
             "synthesis": f"{report['synthesis_s']} s"}
    return "<h3>How</h3>" + _table(["", ""], [[key, f"<code>{escape(str(value))}</code>"]
                                              for key, value in facts.items()])


def _resources(report: dict):
    from bokeh.plotting import figure

    names = names_of(report)
    labels = [names[key] for key in reversed(RESOURCES)]
    values = [report["percent"][key] for key in reversed(RESOURCES)]
    plot = figure(title="Resources, % of the device", y_range=labels, width=WIDTH, height=HEIGHT,
                  x_range=(0, max(100, *values) * 1.12), toolbar_location=None)
    plot.hbar(y=labels, right=values, height=0.6,
              color=[RED if value > 100 else BLUE for value in values])
    plot.text(x=values, y=labels, text=[f" {value} %" for value in values],
              text_baseline="middle", text_font_size="12px")
    plot.ygrid.visible = False
    return plot


def _seeds(report: dict):
    from bokeh.models import Span
    from bokeh.plotting import figure

    labels = [f"seed {seed['seed']}" for seed in report["seeds"]]
    values = [seed["fmax_mhz"] for seed in report["seeds"]]
    goal = report["goal_mhz"]
    plot = figure(title="Clock, MHz (the median in green"
                        + (f", the goal {goal} dashed)" if goal else ")"), x_range=labels,
                  width=WIDTH, height=HEIGHT, y_range=(0, max(*values, goal or 0) * 1.15),
                  toolbar_location=None)
    plot.vbar(x=labels, top=values, width=min(0.5, 0.12 * len(labels)), color=[
        GREEN if seed["seed"] == report["seed"] else BLUE for seed in report["seeds"]])
    plot.text(x=labels, y=values, text=[str(value) for value in values], text_align="center",
              text_font_size="12px", y_offset=-3)
    if goal:
        plot.add_layout(Span(location=goal, dimension="width", line_dash="dashed",
                             line_color=RED))
    plot.xgrid.visible = False
    return plot


def _ns(value: float | None) -> str:
    return "none" if value is None else str(value)
