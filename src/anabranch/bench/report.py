"""The report of a race: one HTML file with everything in it, to open, keep and send."""

from html import escape
from pathlib import Path
from typing import Any

from anabranch.bench.results import Results, Row
from anabranch.data.columns import plural
from anabranch.files import write_atomically

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1100px; padding: 0 1rem; color: #1c2330; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.lead { font-size: 1.05rem; } .dim { color: #667; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid #e3e6ec; text-align: right; white-space: nowrap; }
th:first-child, td:first-child, td.note { text-align: left; } td.note { white-space: normal; }
tr.leader { font-weight: 600; } tr.failed { color: #99a; } .tied { color: #1a7f5a; }
"""


def write_report(results: Results, path: Path) -> None:
    """Write the report, all or nothing."""
    write_atomically(path, html(results))


def html(results: Results) -> str:
    """The report as one self-contained page."""
    import plotly.io
    from plotly.offline import get_plotlyjs

    plots = [(title, text, figure) for title, text, figure in figures(results) if figure is not None]
    drawn = "".join(
        f"<h2>{title}</h2><p class=dim>{text}</p>"
        + plotly.io.to_html(figure, full_html=False, include_plotlyjs=False, default_height="420px")
        for title, text, figure in plots
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(results.race)}: race</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{_STYLE}</style><script>{get_plotlyjs()}</script></head><body>
<h1>{escape(results.race)}</h1>
<p class=dim>{escape(str(results.facts["source"]))}</p>
<p class=lead>{escape(results.verdict())}</p>
<div class=scroll>{table(results)}</div>
<p class=dim>{results.metric}: {"higher" if results.higher_is_better else "lower"} is better. The interval (95 %) comes
from resampling seeds and test samples. <em>Behind</em> is the interval of how much worse than the leader a contender is,
on the same seeds and samples; where it includes zero, the difference may be noise (<span class=tied>tied</span>).
FLOPs and latency are of one sample, peak memory of one training step.</p>
{drawn}
<h2>How it was run</h2>{facts(results)}
<h2>Settings</h2><div class=scroll>{settings(results)}</div>
{notes(results)}
</body></html>
"""


def table(results: Results) -> str:
    """The leaderboard."""
    columns = ["contender", results.metric, "95 % interval", "behind", "parameters", "FLOPs", "train s", "latency ms"]
    head = "".join(f"<th>{escape(column)}</th>" for column in [*columns, "peak MB", ""])
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(map(_row, results.rows))}</tbody></table>"


def _row(row: Row) -> str:
    why = escape("; ".join(row.notes))
    if row.metric is None:
        return (
            f"<tr class=failed><td>{escape(row.contender)}</td><td>failed</td><td class=note colspan=8>{why}</td></tr>"
        )
    if row.behind is None:
        style, behind = " class=leader", "leads"
    else:
        style = ""
        behind = f"{row.behind[0]:.3g} to {row.behind[1]:.3g}" + (" <span class=tied>tied</span>" if row.tied else "")
    low, high = row.interval or (row.metric, row.metric)
    cells = [
        f"{row.metric:.4g}",
        f"{low:.4g} to {high:.4g}",
        behind,
        f"{row.parameters:,}" if row.parameters is not None else "",
        f"{row.flops:,}" if row.flops is not None else "",
        *(f"{value:.3g}" if value is not None else "" for value in (row.train_seconds, row.latency_ms, row.peak_mb)),
    ]
    return f"<tr{style}><td>{escape(row.contender)}</td>{''.join(f'<td>{c}</td>' for c in cells)}<td class=note>{why}</td></tr>"


def figures(results: Results) -> list[tuple[str, str, Any]]:
    """Title, explanation and figure of every plot; the figure is None where there is nothing to draw."""
    ranked = [row for row in results.rows if row.metric is not None]
    return [
        ("Learning curves", "Validation after each tenth of the budget; one line a seed.", _curves(results, ranked)),
        ("Metric against cost", "Up to the left is better where higher is better." if results.higher_is_better
         else "Down to the left is better.", _costs(results, ranked)),
        ("Seed by seed", "Each line is one seed, so that luck shared by all contenders shows.", _pairs(results, ranked)),
    ]  # fmt: skip


def _curves(results: Results, rows: list[Row]) -> Any:
    import plotly.graph_objects as go

    rows = [row for row in rows if any(row.curves)]
    if not rows:
        return None
    figure = go.Figure()
    for number, row in enumerate(rows):
        for seed, curve in enumerate(row.curves):
            figure.add_scatter(
                x=[point[0] for point in curve],
                y=[point[2] for point in curve],
                name=row.contender,
                legendgroup=row.contender,
                showlegend=seed == 0,
                opacity=0.75,
                line={"color": colour(number), "width": 1.5},
                hovertemplate=f"{row.contender}, seed {seed}: %{{y:.4g}} at step %{{x}}<extra></extra>",
            )
    return _dressed(figure, "step", f"validation {results.metric}")


def _costs(results: Results, rows: list[Row]) -> Any:
    import plotly.graph_objects as go

    if not rows:
        return None
    measures = {
        "training time (s)": "train_seconds",
        "latency (ms)": "latency_ms",
        "FLOPs": "flops",
        "peak memory (MB)": "peak_mb",
    }
    figure, buttons = go.Figure(), []
    for number, (label, key) in enumerate(measures.items()):
        shown = [row for row in rows if getattr(row, key)]
        figure.add_scatter(
            x=[getattr(row, key) for row in shown],
            y=[row.metric for row in shown],
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [(row.interval or (0, 0))[1] - (row.metric or 0) for row in shown],
                "arrayminus": [(row.metric or 0) - (row.interval or (0, 0))[0] for row in shown],
                "thickness": 1,
            },
            text=[row.contender for row in shown],
            mode="markers+text",
            textposition="top center",
            marker={"size": 10, "color": ["#2b5fb8" if row.kind == "network" else "#8a8f99" for row in shown]},
            visible=number == 0,
            showlegend=False,
            name=label,
        )
        buttons.append(
            {
                "label": label,
                "method": "update",
                "args": [{"visible": [i == number for i in range(len(measures))]}, {"xaxis.title.text": label}],
            }
        )
    figure.update_xaxes(type="log")
    _dressed(figure, next(iter(measures)), f"test {results.metric}")
    # On the left: on the right the plot's own buttons would lie over it.
    menu = {"buttons": buttons, "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"}
    return figure.update_layout(updatemenus=[menu], margin_t=60)


def _pairs(results: Results, rows: list[Row]) -> Any:
    import plotly.graph_objects as go

    if not rows:
        return None
    figure = go.Figure()
    for seed in range(len(rows[0].by_seed)):
        figure.add_scatter(
            x=[row.contender for row in rows],
            y=[row.by_seed[seed] for row in rows],
            mode="lines+markers",
            name=f"seed {seed}",
            line={"width": 1},
            marker={"size": 8},
        )
    return _dressed(figure, "", f"test {results.metric}")


def _dressed(figure: Any, x: str, y: str) -> Any:
    figure.update_layout(
        template="plotly_white",
        xaxis_title=x,
        yaxis_title=y,
        margin={"l": 60, "r": 20, "t": 30, "b": 50},
        legend={"orientation": "h", "y": -0.2},
    )
    return figure


def colour(number: int) -> str:
    """One of a set of colours that differ in hue and lightness."""
    from plotly.colors import qualitative

    return qualitative.D3[number % len(qualitative.D3)]


def facts(results: Results) -> str:
    """How the race was run, as a list."""
    facts = results.facts
    samples = facts["samples"]
    lines = [
        f"Data: {samples['train']:,} samples to train on, {samples['valid']:,} to choose settings by, "
        f"{samples['test']:,} to judge the final runs; the test samples were used for nothing else.",
        f"Networks: skeleton {facts['skeleton']}, {facts['parameters']:,} parameters each, within 5 % unless a note "
        "says otherwise; widths were solved for.",
        f"Tuning: at most {plural(facts['trials'], 'setting')} a contender, the defaults first, the others spread evenly over "
        "its own declared space; all contenders try the same learning rates.",
        f"Budget: {facts['budget']} ({facts['budget_per_run']} a run), batches of {facts['batch_size']} in the same order "
        f"for all; {facts['seeds']} final runs with seeds from {facts['seed']}; one thread a run, on {facts['device']}.",
        f"anabranch {facts['version']}, torch {facts['torch']}.",
    ]
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def settings(results: Results) -> str:
    """The tuned setting of every contender."""

    def said(value: Any) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    rows = []
    for row in results.rows:
        if row.valid is not None:
            setting = escape(", ".join(f"{key} = {said(value)}" for key, value in row.setting.items()))
            rows.append(
                f"<tr><td>{escape(row.contender)}</td><td class=note>{setting}</td><td>{row.valid:.4g}</td></tr>"
            )
    head = f"<tr><th>contender</th><th>setting</th><th>validation {escape(results.metric)}</th></tr>"
    return f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"


def notes(results: Results) -> str:
    """What was done to the data on the way in."""
    if not results.notes:
        return ""
    return "<h2>Data</h2><ul>" + "".join(f"<li>{escape(note)}</li>" for note in results.notes) + "</ul>"
