"""Plots as inline SVG, in the page's own font and colours, so that they are right on light, on dark and on paper.

Matplotlib draws with the light colours below; each is then replaced by the CSS variable that the layout defines. A plot's
width is in CSS pixels: it is drawn 1:1 in its column, so that its text is as large as the text around it.
"""

import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

INK, MUTED, LINE, CARD, STRONG = "#1b2430", "#5b6878", "#dfe4ea", "#ffffff", "#fefefe"
BASE, TUNED, CHAMPION, WRONG = "#9aa7b5", "#0072b2", "#e69f00", "#d55e00"  # the last three: Okabe and Ito's colours
VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    LINE: "line",
    CARD: "card",
    STRONG: "strong",
    BASE: "base",
    TUNED: "tuned",
    CHAMPION: "champion",
    WRONG: "wrong",
}
LABEL_LIMIT = 30
MODEL_COLOURS = {"base": BASE, "tuned": TUNED, "champion": CHAMPION}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be searched, and takes the page's font
    "text.parse_math": False,  # a tool or a label may hold dollar signs
    "font.size": 11.5,
    "font.family": "DejaVu Sans",  # comes with matplotlib, and is wider than the fonts it is replaced by: nothing overlaps
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 1.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


@matplotlib.rc_context(STYLE)
def loss_curve(
    train: Sequence[tuple[float, float]], validation: Sequence[tuple[float, float]], best_epoch: float | None, width: int = 560
) -> Markup:
    """Training and validation loss by epoch, with the epoch whose weights were kept marked.

    Args:
        train: points (epoch, loss), in order.
        validation: the same; may be empty.
        best_epoch: the validation point nearest to it is marked; None marks nothing.
        width: in CSS pixels.
    """
    axes = _axes(width, 300)
    if train:
        axes.plot(*zip(*train, strict=True), color=BASE, linewidth=1.6, label="training")
    if validation:
        axes.plot(*zip(*validation, strict=True), color=TUNED, linewidth=2, marker="o", markersize=5, label="validation")
    if validation and best_epoch is not None:
        epoch, loss = min(validation, key=lambda point: abs(point[0] - best_epoch))
        axes.axvline(epoch, color=TUNED, linewidth=1, linestyle=(0, (3, 3)), zorder=0)
        axes.plot(
            [epoch],
            [loss],
            color=TUNED,
            marker="o",
            markersize=11,
            markerfacecolor="none",
            markeredgecolor=TUNED,
            markeredgewidth=1.6,
        )
        # High beside the line, where a falling loss has left room; the card behind it hides what it may cross.
        late = epoch > 0.6 * max(x for x, _ in [*train, *validation])
        axes.text(
            epoch,
            0.95,
            f" kept: epoch {epoch:g}, loss {loss:.3f} ",
            transform=axes.get_xaxis_transform(),
            ha="right" if late else "left",
            va="top",
            color=TUNED,
            fontweight="bold",
            bbox={"facecolor": CARD, "edgecolor": "none", "pad": 2},
        )
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss per answer token")
    axes.grid(axis="y")
    _legend_above(axes)
    return _svg(axes, "loss", "Training and validation loss by epoch")


@matplotlib.rc_context(STYLE)
def verdict_bars(counts: Mapping[str, Mapping[str, int]], width: int = 420) -> Markup:
    """How many questions got each verdict, one bar per model.

    Args:
        counts: model (`base`, `tuned`, `champion`) → verdict → questions; every model has the same verdicts, best first.
        width: in CSS pixels.
    """
    verdicts = list(next(iter(counts.values())))
    thick = 0.8 / len(counts)
    height = 60 + len(verdicts) * (14 + 13 * len(counts))
    axes = _axes(width, height)
    most = max(max(of_model.values()) for of_model in counts.values())
    for place, (model, of_model) in enumerate(counts.items()):
        rows = [y - 0.4 + thick * (place + 0.5) for y in range(len(verdicts))]
        numbers = [of_model[verdict] for verdict in verdicts]
        axes.barh(rows, numbers, height=thick * 0.88, color=MODEL_COLOURS[model], label=model)
        for y, number in zip(rows, numbers, strict=True):
            axes.text(number + most * 0.012, y, str(number), va="center_baseline", fontsize=10.5, color=INK if number else MUTED)
    axes.set_yticks(range(len(verdicts)), [verdict.replace("_", " ") for verdict in verdicts], color=INK)
    axes.set_ylim(len(verdicts) - 0.5, -0.5)
    axes.set_xlim(0, most * 1.1 or 1)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_xlabel("questions")
    axes.grid(axis="x")
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="x", length=0)
    _legend_above(axes)
    return _svg(axes, "verdicts", "Questions by verdict and model")


@matplotlib.rc_context(STYLE)
def confusion_heatmap(cells: Mapping[str, Mapping[str, int]], width: int = 550) -> Markup:
    """Expected tools (rows) against called tools (columns): counts, shaded by their share of the row.

    What is right is blue and what is wrong is orange, so that the eye needs not follow the diagonal.

    Args:
        cells: expected label → called label → questions. The cell whose two labels are equal is the right one.
        width: in CSS pixels.
    """
    expected = list(cells)
    called = expected + sorted({label for row in cells.values() for label in row} - set(expected))
    height = 150 + 34 * len(expected)
    axes = _axes(width, height)
    for y, label in enumerate(expected):
        total = sum(cells[label].values())
        for x, other in enumerate(called):
            count = cells[label].get(other, 0)
            share = count / total if total else 0.0
            colour = TUNED if label == other else WRONG
            axes.add_patch(Rectangle((x - 0.47, y - 0.46), 0.94, 0.92, facecolor=LINE, alpha=0.35, linewidth=0))
            if count:
                # A single wrong call must still be seen, so shading begins at 0.15.
                axes.add_patch(
                    Rectangle((x - 0.47, y - 0.46), 0.94, 0.92, facecolor=colour, alpha=0.15 + 0.85 * share, linewidth=0)
                )
                axes.text(x, y, str(count), ha="center", va="center_baseline", color=STRONG if share > 0.5 else INK)
    axes.set_xlim(-0.5, len(called) - 0.5)
    axes.set_ylim(len(expected) - 0.5, -0.5)
    axes.set_yticks(range(len(expected)), [f"{_short(label)} ({sum(cells[label].values())})" for label in expected], color=INK)
    axes.set_xticks(
        range(len(called)), [_short(label) for label in called], color=INK, rotation=35, ha="left", rotation_mode="anchor"
    )
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("bottom")
    axes.set_xlabel("called", labelpad=6)
    axes.set_ylabel("expected")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return _svg(axes, "confusion", "Expected tools against called tools")


@matplotlib.rc_context(STYLE)
def token_histogram(lengths: Sequence[int], limit: int | None, what: str, name: str, width: int = 500) -> Markup:
    """How long the training rows are.

    Args:
        lengths: tokens of each row; not empty.
        limit: the longest row that is allowed, marked where it is near, else named at the edge; None for no limit.
        what: the x axis' label, with its unit.
        name: a word that no other plot of the page has.
        width: in CSS pixels.
    """
    axes = _axes(width, 230)
    low, high = min(lengths), max(lengths)
    # Whole tokens per bin: fractional bins would show gaps that are not in the data.
    step = max(1, -(-(high - low + 1) // 30))
    edges = [low + step * i - 0.5 for i in range((high - low) // step + 2)]
    axes.hist(lengths, bins=edges, color=TUNED, rwidth=0.92)
    top = axes.get_ylim()[1] * 1.12
    axes.set_ylim(0, top)
    if limit is not None and limit <= low + 2 * (high - low + 1):
        axes.axvline(limit, color=WRONG, linewidth=1.4, linestyle=(0, (4, 3)))
        axes.text(limit, top, f"max_tokens {limit} ", color=WRONG, ha="right", va="top", fontweight="bold")
    elif limit is not None:
        axes.text(
            0.995, 1, f"max_tokens {limit} →", color=WRONG, ha="right", va="top", fontweight="bold", transform=axes.transAxes
        )
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    axes.set_xlabel(what)
    axes.set_ylabel("rows")
    axes.grid(axis="y")
    return _svg(axes, name, f"Histogram: {what}")


def _legend_above(axes: Axes) -> None:
    """The legend in one line above the axes, so that it covers nothing."""
    entries = len(axes.get_legend_handles_labels()[0])
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=entries, borderaxespad=0.2, handlelength=1.3, columnspacing=1.6)


def _short(label: str) -> str:
    """A label that leaves room for what it labels."""
    return label if len(label) <= LABEL_LIMIT else label[: LABEL_LIMIT - 1] + "…"


def _axes(width: int, height: int) -> Axes:
    """Axes to draw on; width and height in CSS pixels (an SVG unit of Matplotlib's is 1/72 inch)."""
    return Figure(figsize=(width / 72, height / 72), layout="constrained").add_subplot()


def _svg(axes: Axes, name: str, label: str) -> Markup:
    """The drawing as an `<svg>` element, without what a page does not need: prologue, metadata, unused ids, and its
    style sheet, which would hold for the whole page (the layout has it).

    Args:
        axes: from :func:`_axes`, drawn upon.
        name: one word, no other plot's on the page: the ids of what the drawing refers to depend on it.
        label: what a screen reader says.
    """
    out = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        axes.get_figure(root=True).savefig(out, format="svg", metadata={"Date": None})  # type: ignore[union-attr]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", out.getvalue(), flags=re.DOTALL)
    used = set(re.findall(r"#([\w-]+)", svg))
    svg = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", svg)
    head, body = re.split(r"(?<=>)", svg[svg.index("<svg") :], maxsplit=1)
    box, width = re.findall(r'(viewBox="0 0 ([\d.]+) [^"]+")', head)[0]
    for colour, variable in VARIABLES.items():
        body = body.replace(colour, f"var(--plot-{variable}, {colour})")
    # On a narrow screen two columns become one: the plot may grow a little, its text must not become a headline.
    return Markup(
        f'<svg {box} style="max-width: {1.2 * float(width):.0f}px" role="img" aria-label="{escape(label)}">{body.strip()}'
    )
