"""The picture of a model as shapes with positions, which ``templates/blocks.svg`` writes as SVG.

A column from inputs to outputs. A stack is a frame with a square for each block (new ones carry a plus)
and the parts of one block along its stream; a size is words, and a bar whose hatched end is what grew.
Colours come from the page, and nothing is said by colour alone. Lengths are in units of the drawing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from meristem.pages.parts import Part, Picture, Row, Size, Tower

WIDTH = 560
# More of these would be no picture; what is left out is said.
MOST_ROWS, MOST_SQUARES, MOST_VARIANTS, MOST_SIZES = 40, 96, 4, 9

_GAP, _PAD, _LINE = 26, 14, 17
_SQUARE, _COLUMNS = 15, 3
_LETTER = 6.7  # the width of one, nearly


@dataclass(frozen=True)
class Shape:
    """``what`` is rect, text, line, or plus; ``style`` its class. ``full`` is the text where it is cut."""

    what: str
    x: float
    y: float
    style: str
    w: float = 0
    h: float = 0
    text: str = ""
    full: str = ""


@dataclass
class Drawing:
    """Shapes on ``WIDTH`` by ``height`` units; ``words`` say the same as the picture."""

    shapes: list[Shape] = field(default_factory=list)
    height: float = 0
    words: list[str] = field(default_factory=list)
    width: int = WIDTH


def draw(picture: Picture) -> Drawing:
    """Lay a picture out."""
    pen = _Pen()
    pen.ends("reads", picture.inputs)
    shown = picture.rows[:MOST_ROWS]
    for i, row in enumerate(shown):
        pen.link(_link(i, picture), joined=i == 0 or i - 1 in picture.reads[i])
        pen.row(row)
    if len(picture.rows) > len(shown):
        pen.link("", joined=True)
        pen.remark(f"and {len(picture.rows) - len(shown)} rows more, which are not drawn")
    pen.link("", joined=True)
    pen.ends("gives", picture.outputs)
    return Drawing(pen.shapes, pen.y + 2, pen.words)


def _link(i: int, picture: Picture) -> str:
    """What a row reads besides, or in place of, the row above it."""
    reads = picture.reads[i]
    far = sorted(j for j in reads if 0 <= j < i - 1)
    names = ", ".join(dict.fromkeys(_name(picture.rows[j]) for j in far[:2]))
    more = f" and {len(far) - 2} more" if len(far) > 2 else ""
    if i == 0 or i - 1 in reads:
        return f"reads {names}{more} too" if names else ""
    return f"reads {names}{more}" if names else "reads the inputs"


def _name(row: Row) -> str:
    return row.place or (row.title if isinstance(row, Part) else "the stack")


class _Pen:
    """Draws from the top down; ``y`` is where the next thing begins."""

    def __init__(self) -> None:
        self.shapes: list[Shape] = []
        self.words: list[str] = []
        self.y = 2.0

    # -- rows -------------------------------------------------------------------------------------

    def row(self, row: Row) -> None:
        if isinstance(row, Tower):
            self._tower(row)
        else:
            self.words.append(_told(row))
            self.y = self._part(row, 1, self.y, WIDTH - 2)

    def ends(self, verb: str, values: Sequence[tuple[str, tuple[int, ...]]]) -> None:
        """The inputs, or the outputs."""
        named = [f"{name} {list(shape)}" for name, shape in values]
        more = f" and {len(named) - 3} more" if len(named) > 3 else ""
        text = ", ".join(named[:3]) + more
        self.words.append(f"{verb} {text}")
        self._box(1, self.y, WIDTH - 2, 30, "end")
        self._text(WIDTH / 2, self.y + 20, f"{verb} {text}", "mid", WIDTH - 20)
        self.y += 30

    def link(self, note: str, *, joined: bool) -> None:
        """What leads from one row to the next."""
        if joined:
            self.shapes.append(Shape("line", WIDTH / 2, self.y, "arrow", 0, _GAP))
        if note:
            self._text(WIDTH / 2 + 12, self.y + 17, note, "note", WIDTH / 2 - 20)
            self.words.append(note)
        self.y += _GAP

    def remark(self, text: str) -> None:
        self._text(WIDTH / 2, self.y + 14, text, "mid", WIDTH)
        self.words.append(text)
        self.y += 20

    def _tower(self, t: Tower) -> None:
        top = self.y
        frame = len(self.shapes)
        count = f"{t.before} → {len(t.new)}" if t.before != len(t.new) else str(len(t.new))
        blocks = f"{count} block" + ("s" if len(t.new) != 1 else "")
        self._text(_PAD, top + 24, blocks, "title", 190)
        self._text(WIDTH - _PAD, top + 24, _millions(t.parameters), "note right", 170)
        if t.place:
            self._text(_PAD + 200, top + 24, t.place, "place", 180)
        self.words.append(
            f"{blocks} in {t.place or 'the model'}, {_sizes_told(t.stream)}".rstrip(", ")
        )
        y = self._squares(t.new, top + 38)
        if t.stream:
            y = self._sizes(t.stream, _PAD, y + 2, WIDTH - 2 * _PAD)
        y += 8
        for v in t.variants[:MOST_VARIANTS]:
            if len(t.variants) > 1:
                self._text(_PAD, y + 12, f"blocks {_ranges(v.numbers)}", "note", WIDTH - 2 * _PAD)
                self.words.append(f"blocks {_ranges(v.numbers)}:")
                y += 22
            y = self._stream(v.parts, y)
        left = len(t.variants) - MOST_VARIANTS
        if left > 0:
            self._text(_PAD, y + 12, f"and {left} kinds of blocks more", "note", WIDTH)
            y += 24
        style = "frame grown" if t.before != len(t.new) else "frame"
        self.shapes.insert(frame, Shape("rect", 1, top, style, WIDTH - 2, y - top))
        self.y = y

    def _stream(self, parts: Sequence[Part], y: float) -> float:
        """The parts of a block beside the stream that they are added to."""
        x, start = _PAD + 9, y
        at = len(self.shapes)
        for part in parts:
            self.words.append("adds " + _told(part))
            end = self._part(part, _PAD + 34, y, WIDTH - 2 * _PAD - 34)
            self.shapes.append(Shape("line", x, y + 16, "read", 25, 0))
            self.shapes.append(Shape("line", x, end - 14, "write", 25, 0))
            self.shapes.append(Shape("plus", x, end - 14, "sum", 7))
            y = end + 10
        if parts:
            self.shapes.insert(at, Shape("line", x, start - 4, "stream", 0, y - start))
        return y + 4

    def _squares(self, new: Sequence[bool], y: float) -> float:
        """A square for each block; new ones carry a plus."""
        shown = new[:MOST_SQUARES]
        columns = (WIDTH - 2 * _PAD) // _SQUARE
        for i, fresh in enumerate(shown):
            x, at = _PAD + i % columns * _SQUARE, y + i // columns * _SQUARE
            self._box(x, at, 12, 12, "square grown" if fresh else "square")
            if fresh:
                self.shapes.append(Shape("plus", x + 6, at + 6, "mark", 3.5))
        if sum(new):
            numbers = _ranges([i for i, fresh in enumerate(new) if fresh])
            self.words.append(f"new are blocks {numbers}")
        y += (len(shown) - 1) // columns * _SQUARE + _SQUARE
        if len(new) > len(shown):
            self._text(_PAD, y + 12, f"and {len(new) - len(shown)} more", "note", 200)
            y += 18
        return y + 4

    # -- parts ------------------------------------------------------------------------------------

    def _part(self, p: Part, x: float, y: float, w: float) -> float:
        """A box with title, place, parameters and sizes; gives where it ends."""
        at = len(self.shapes)
        third = w / 3
        self._text(x + 12, y + 21, p.title, "title", third)
        self._text(x + 12 + third, y + 21, p.place, "place", third - 16)
        self._text(x + w - 12, y + 21, _millions(p.parameters), "note right", third)
        end = self._sizes(p.sizes, x + 12, y + 30, w - 24) if p.sizes else y + 40
        style = "part grown" if p.grew else "part"
        self.shapes.insert(at, Shape("rect", x, y, style, w, end - y))
        return end

    def _sizes(self, sizes: Sequence[Size], x: float, y: float, w: float) -> float:
        """Sizes in columns, each with a bar."""
        step = w / _COLUMNS
        shown = sizes[:MOST_SIZES]
        for i, s in enumerate(shown):
            left, top = x + i % _COLUMNS * step, y + i // _COLUMNS * (_LINE + 13)
            number = f"{s.before} → {s.after}" if s.grew else str(s.after)
            times = f" ×{s.places}" if s.places > 1 else ""
            self._text(left, top + 12, f"{s.kind} {number}{times}", "size", step - 8)
            full = step - 14
            old = full * s.before / max(s.after, 1)
            self._box(left, top + 17, old, 5, "bar")
            if s.grew:
                self._box(left + old, top + 17, full - old, 5, "bar new")
        y += -(-len(shown) // _COLUMNS) * (_LINE + 13)
        if len(sizes) > len(shown):
            self._text(x, y + 10, f"and {len(sizes) - len(shown)} sizes more", "note", w)
            y += 18
        return y + 4

    # -- strokes ----------------------------------------------------------------------------------

    def _box(self, x: float, y: float, w: float, h: float, style: str) -> None:
        self.shapes.append(Shape("rect", x, y, style, w, h))

    def _text(self, x: float, y: float, text: str, style: str, room: float) -> None:
        if text:
            cut = _cut(text, int(room / _LETTER))
            self.shapes.append(
                Shape("text", x, y, style, text=cut, full="" if cut == text else text)
            )


def _cut(text: str, most: int) -> str:
    """The two ends of a text that is too long."""
    if len(text) <= most or most < 3:
        return text
    head = (most - 1) // 2
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"


def _told(p: Part) -> str:
    place = f" in {p.place}" if p.place else ""
    sizes = f": {_sizes_told(p.sizes)}" if p.sizes else ""
    return f"{p.title}{place}{sizes}"


def _sizes_told(sizes: Sequence[Size]) -> str:
    return ", ".join(
        f"{s.kind} {s.before} to {s.after}" if s.grew else f"{s.kind} {s.after}" for s in sizes
    )


def _millions(n: int) -> str:
    """A number of parameters in three digits or so."""
    for unit, word in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if n >= unit:
            return f"{n / unit:.3g}{word}"
    return str(n)


def _ranges(numbers: Sequence[int]) -> str:
    """0, 2-5, 7"""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and runs[-1][-1] == n - 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    return ", ".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs)


__all__ = ["Drawing", "Shape", "draw"]
