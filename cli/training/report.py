"""The page of a training run: curves, ranges and quantization errors (bokeh, self-contained)."""

import gc
import math
import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

__all__ = ["BLUE", "GREEN", "RED", "write_report"]

RELOAD_SECONDS = 10
BLUE, RED, GREEN = "#1f77b4", "#d62728", "#2ca02c"
WIDTH, HEIGHT = 560, 300
LEGEND_LAYERS = 14  # with more layers the legend is left to the hover tool
# kind, column, title, unit of every plot with one line per layer
LAYER_PLOTS = (
    ("range", "high", "Activation range, upper end", "activation"),
    ("range", "low", "Activation range, lower end", "activation"),
    ("weight", "largest", "Largest weight", "|weight|"),
    ("W", "relative_error", "Weights: quantization error", "relative RMS"),
    ("A", "relative_error", "Activations: quantization error", "relative RMS"),
    ("E", "relative_error", "Gradient to the input: quantization error", "relative RMS"),
    ("E", "cosine", "Gradient to the input: cosine similarity", "cosine"),
    ("G", "relative_error", "Gradient to the weight: quantization error", "relative RMS"),
    ("G", "cosine", "Gradient to the weight: cosine similarity", "cosine"),
)


def _figure(title: str, unit: str):
    from bokeh.models import BasicTicker, BasicTickFormatter
    from bokeh.plotting import figure

    plot = figure(title=title, width=WIDTH, height=HEIGHT, x_axis_label="epoch",
                  y_axis_label=unit, tools="pan,wheel_zoom,box_zoom,reset,save",
                  toolbar_location="above", min_border_left=70)
    plot.xaxis.ticker = BasicTicker(mantissas=[1, 2, 5], min_interval=1)
    plot.yaxis.formatter = BasicTickFormatter(power_limit_low=-3)
    plot.toolbar.logo = None
    plot.toolbar.autohide = True
    return plot


def _curves(source, title: str, unit: str, columns: dict[str, str]):
    """One figure with a line per column of the history."""
    from bokeh.models import HoverTool

    plot = _figure(title, unit)
    for name, colour in columns.items():
        plot.line("epoch", name, source=source, color=colour, line_width=2,
                  legend_label=name.replace("_", " "))
        plot.scatter("epoch", name, source=source, color=colour, size=5)
    plot.add_tools(HoverTool(tooltips=[("epoch", "@epoch"), *[
        (name.replace("_", " "), f"@{name}{{0.0000}}") for name in columns]]))
    if len(columns) > 1:
        plot.add_layout(plot.legend[0], "right")  # beside the curves, never over them
    else:
        plot.legend.visible = False
    return plot


def _layers(telemetry: list[dict], kind: str, column: str, title: str, unit: str):
    """One figure with a line per layer, from blue (first) to yellow (last); None without data."""
    from bokeh.models import HoverTool
    from bokeh.palettes import viridis

    lines = defaultdict(list)
    for row in telemetry:
        if row["kind"] == kind:
            value = max(abs(row["low"]), abs(row["high"])) if column == "largest" else row[column]
            if math.isfinite(value):
                lines[row["layer"]].append((row["epoch"], value))
    if not lines:
        return None
    order = list(dict.fromkeys(row["layer"] for row in telemetry))  # forward, gradients too
    lines = dict(sorted(lines.items(), key=lambda item: order.index(item[0])))
    plot = _figure(title, unit)
    colours = viridis(max(len(lines), 3))
    for (layer, points), colour in zip(lines.items(), colours):
        epochs, values = zip(*points)
        label = {"legend_label": layer} if len(lines) <= LEGEND_LAYERS else {}
        plot.line(epochs, values, color=colour, line_width=1.5, name=layer, **label)
        if len(epochs) == 1:  # a line needs two points
            plot.scatter(epochs, values, color=colour, size=5, name=layer)
    plot.add_tools(HoverTool(tooltips=[("layer", "$name"), ("epoch", "$x{0}"),
                                       (unit, "$y{0.0000}")]))
    if plot.legend:
        plot.legend.label_text_font_size = "8pt"
        plot.legend.spacing, plot.legend.padding = 0, 4
        plot.legend.glyph_height = plot.legend.label_height = 13
        plot.add_layout(plot.legend[0], "right")
    return plot


def _table(config: dict) -> str:
    rows = "".join(f"<tr><td style='padding-right:1em'>{key}</td><td><code>{value}</code></td></tr>"
                   for key, value in config.items())
    return f"<table>{rows}</table>"


def write_report(path: str | Path, history: list[dict], config: dict,
                 telemetry: Iterable[dict] = (), *, running: bool = False) -> None:
    """Write report.html in one rename.

    history: one dict per epoch, as in results.csv; telemetry: the rows of telemetry.csv; config:
    shown as text. running: the page reloads itself, for a run that goes on.
    """
    enabled = gc.isenabled()
    gc.disable()  # of the many small models of a page none is garbage: a third of the time
    try:
        _write_report(Path(path), history, config, list(telemetry), running)
    finally:
        if enabled:
            gc.enable()


def _write_report(path, history, config, telemetry, running):
    from bokeh.embed import file_html
    from bokeh.layouts import column, gridplot
    from bokeh.models import ColumnDataSource, Div
    from bokeh.resources import INLINE

    source = ColumnDataSource({key: [row[key] for row in history] for key in history[0]})
    figures = [_curves(source, "Loss", "loss", {"train_loss": BLUE, "test_loss": RED})]
    if any(math.isfinite(row["test_accuracy"]) for row in history):
        figures.insert(0, _curves(source, "Accuracy", "share",
                                  {"train_accuracy": BLUE, "test_accuracy": RED}))
    figures += [_curves(source, "Learning rate", "learning rate", {"lr": GREEN}),
                _curves(source, "Speed", "images/s", {"images_per_second": GREEN})]
    per_layer = [plot for entry in LAYER_PLOTS if (plot := _layers(telemetry, *entry))]
    last = history[-1]
    state = "running" if running else "finished"
    accuracy = "" if math.isnan(last["test_accuracy"]) \
        else f"test accuracy {100 * last['test_accuracy']:.2f} %, "
    parts = [Div(text=f"<h2>{config['model']} on {config['dataset']}</h2><p>{state}: epoch "
                      f"{last['epoch'] + 1} of {config['epochs']}, {accuracy}test loss "
                      f"{last['test_loss']:.4f}</p>", width=2 * WIDTH),
             gridplot(figures, ncols=2, merge_tools=False, toolbar_location=None)]
    if per_layer:
        parts += [Div(text="<h3>Layers</h3><p>One line per layer, from the first (dark) to the "
                           "last (bright); observed on one fixed batch after every epoch.</p>",
                      width=2 * WIDTH),
                  gridplot(per_layer, ncols=2, merge_tools=False, toolbar_location=None)]
    parts.append(Div(text=_table(config), width=2 * WIDTH))
    page = file_html(column(*parts), INLINE, title=f"{config['model']} training")
    if running:
        page = page.replace("<head>", f"<head><meta http-equiv=\"refresh\" "
                                      f"content=\"{RELOAD_SECONDS}\">", 1)
    temporary = path.with_name(f".{path.name}.writing")
    temporary.write_text(page)
    os.replace(temporary, path)
