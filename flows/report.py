"""The page of a training run: loss and accuracy curves, self-contained (bokeh, inline)."""

from pathlib import Path


def write_report(path: str | Path, history: list[dict], config: dict) -> None:
    """Write report.html. history: one dict per epoch, as in results.csv; config: shown as text."""
    from bokeh.embed import file_html
    from bokeh.layouts import column
    from bokeh.models import ColumnDataSource, Div
    from bokeh.plotting import figure
    from bokeh.resources import INLINE

    source = ColumnDataSource({key: [row[key] for row in history] for key in history[0]})

    def curves(title: str, unit: str, columns: dict[str, str]):
        plot = figure(title=title, width=760, height=300, x_axis_label="epoch",
                      y_axis_label=unit, tools="hover,pan,wheel_zoom,reset,save",
                      tooltips=[("epoch", "@epoch"),
                                *[(name, f"@{name}{{0.0000}}") for name in columns]])
        for name, colour in columns.items():
            plot.line("epoch", name, source=source, color=colour, line_width=2, legend_label=name)
            plot.scatter("epoch", name, source=source, color=colour, size=5)
        plot.add_layout(plot.legend[0], "right")  # beside the curves, never over them
        return plot

    rows = "".join(f"<tr><td>{key}</td><td><code>{value}</code></td></tr>"
                   for key, value in config.items())
    page = column(
        Div(text=f"<h2>{config['model']} on {config['dataset']}</h2>"),
        curves("Accuracy", "share", {"train_accuracy": "#1f77b4", "test_accuracy": "#d62728"}),
        curves("Loss", "cross-entropy", {"train_loss": "#1f77b4", "test_loss": "#d62728"}),
        Div(text=f"<table>{rows}</table>"))
    Path(path).write_text(file_html(page, INLINE, title=f"{config['model']} training"))
