# mypy: disable-error-code="no-untyped-def"
# (what @triton.jit compiles has no Python types)
"""Which cells a box covers and how it is drawn, in Triton: the rules of kernels/boxes/geometry.h.

Everything is in double and rounded step by step, so that spans are those of the reference;
`windows_kernel` must be launched with enable_fp_fusion=False.
"""

from __future__ import annotations

import triton
import triton.language as tl

BOX, PYRAMID, GAUSSIAN, GAUSSIAN_LEGACY = (
    tl.constexpr(i) for i in range(4)
)  # box_kernels.PROFILES
MOST_CELLS: tl.constexpr = tl.constexpr(2.0**29)  # a radius beyond any level


@triton.jit
def load_box(boxes, t, exists):
    """Corners x1, y1, x2, y2 in double, and whether they are finite and of positive size."""
    x1 = tl.load(boxes + 4 * t, mask=exists, other=0.0).to(tl.float64)
    y1 = tl.load(boxes + 4 * t + 1, mask=exists, other=0.0).to(tl.float64)
    x2 = tl.load(boxes + 4 * t + 2, mask=exists, other=0.0).to(tl.float64)
    y2 = tl.load(boxes + 4 * t + 3, mask=exists, other=0.0).to(tl.float64)
    finite = (x1 - x1 == 0.0) & (y1 - y1 == 0.0) & (x2 - x2 == 0.0) & (y2 - y2 == 0.0)
    return x1, y1, x2, y2, finite & (x2 > x1) & (y2 > y1)


@triton.jit
def clamp_cell(cell, cells, usable):
    """A cell number in double as one in 0 .. cells; 0 where the box is not usable."""
    inside = tl.minimum(tl.maximum(tl.where(usable, cell, 0.0), 0.0), cells.to(tl.float64))
    return inside.to(tl.int32)


@triton.jit
def side_span(low, high, usable, pixels, cells):
    """First and end cell of one side: ceil(low cells / pixels) .. floor(high cells / pixels)."""
    count, size = cells.to(tl.float64), pixels.to(tl.float64)
    first = clamp_cell(tl.ceil(low * count / size), cells, usable)
    return first, clamp_cell(tl.floor(high * count / size) + 1.0, cells, usable)


@triton.jit
def cell_span(x1, y1, x2, y2, usable, image_height, image_width, height, width):
    """The covered cells: left, right, top, bottom; ends exclusive, all zero if none."""
    left, right = side_span(x1, x2, usable, image_width, width)
    top, bottom = side_span(y1, y2, usable, image_height, height)
    covers = (right > left) & (bottom > top)
    nothing = tl.zeros_like(left)
    return (
        tl.where(covers, left, nothing),
        tl.where(covers, right, nothing),
        tl.where(covers, top, nothing),
        tl.where(covers, bottom, nothing),
    )


@triton.jit
def gaussian_radius(height, width, OVERLAP: tl.constexpr, LEGACY: tl.constexpr):
    """The largest shift of two corners that keeps OVERLAP with a box of height x width."""
    total, area = height + width, height * width
    double_total = 2.0 * total
    a3: tl.constexpr = 4.0 * OVERLAP
    b3 = (-2.0 * OVERLAP) * total
    c1 = area * (1.0 - OVERLAP) / (1.0 + OVERLAP)
    c2 = (1.0 - OVERLAP) * area
    c3 = (OVERLAP - 1.0) * area
    root1 = tl.sqrt(total * total - 4.0 * c1)
    root2 = tl.sqrt(double_total * double_total - 16.0 * c2)
    root3 = tl.sqrt(b3 * b3 - (4.0 * a3) * c3)
    if LEGACY:
        r1, r2, r3 = (total + root1) / 2.0, (double_total + root2) / 2.0, (b3 + root3) / 2.0
    else:
        r1, r2 = (total - root1) / 2.0, (double_total - root2) / 8.0
        r3 = (b3 + root3) / (2.0 * a3)
    return tl.minimum(r1, tl.minimum(r2, r3))


@triton.jit
def gaussian_span(
    x1, y1, x2, y2, usable, image_height, image_width, height, width,
    OVERLAP: tl.constexpr, LEGACY: tl.constexpr,
):  # fmt: skip
    """Window of a Gaussian, its centre's cell, its radius; an empty one if centred outside."""
    rows, columns = height.to(tl.float64), width.to(tl.float64)
    x1 = x1 * columns / image_width.to(tl.float64)
    x2 = x2 * columns / image_width.to(tl.float64)
    y1 = y1 * rows / image_height.to(tl.float64)
    y2 = y2 * rows / image_height.to(tl.float64)
    column, row = tl.floor((x1 + x2) / 2.0), tl.floor((y1 + y2) / 2.0)
    usable = usable & (column >= 0.0) & (column < columns) & (row >= 0.0) & (row < rows)
    tall, broad = tl.maximum(tl.ceil(y2 - y1), 1.0), tl.maximum(tl.ceil(x2 - x1), 1.0)
    exact = tl.where(usable, gaussian_radius(tall, broad, OVERLAP, LEGACY), 0.0)
    radius = tl.floor(tl.minimum(tl.maximum(exact, 0.0), MOST_CELLS))
    left = clamp_cell(column - radius, width, usable)
    right = clamp_cell(column + radius + 1.0, width, usable)
    top = clamp_cell(row - radius, height, usable)
    bottom = clamp_cell(row + radius + 1.0, height, usable)
    return left, right, top, bottom, column, row, radius


@triton.jit(do_not_specialize=["heights", "widths", "image_height", "image_width", "count"])
def windows_kernel(
    boxes, order, assigned, windows, numbers, heights, widths, image_height, image_width, count,
    PROFILE: tl.constexpr, OVERLAP: tl.constexpr, ASSIGNED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """How each object is drawn on each level, in the order `order`.

    windows (P, T, 4) are the cells outside which it is zero: left, right, top, bottom. numbers
    (P, T, 4) say what it is inside, a row and a column offset and a factor for each, counted from
    the window's first cell so that single precision is enough: see `profile_at`. A box needs none.
    """
    level = tl.program_id(0)
    height, width = heights[0], widths[0]
    for other in tl.static_range(1, len(heights)):
        if level == other:
            height, width = heights[other], widths[other]
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    exists = place < count
    t = tl.load(order + place, mask=exists, other=0)
    x1, y1, x2, y2, usable = load_box(boxes, t, exists)
    if ASSIGNED:
        usable = usable & (tl.load(assigned + level * count + t, mask=exists, other=0) != 0)
    at = (level.to(tl.int64) * count + place) * 4
    if (PROFILE == BOX) | (PROFILE == PYRAMID):
        left, right, top, bottom = cell_span(
            x1, y1, x2, y2, usable, image_height, image_width, height, width
        )
        if PROFILE == PYRAMID:
            # The distance from the centre over the size, |cell - centre| / size, is
            # |(cell - first) factor - offset|.
            down = height.to(tl.float64) / image_height.to(tl.float64)
            across = width.to(tl.float64) / image_width.to(tl.float64)
            tall, broad = tl.where(usable, y2 - y1, 1.0), tl.where(usable, x2 - x1, 1.0)
            row_offset = ((y1 + y2) / 2.0 - top.to(tl.float64) / down) / tall
            column_offset = ((x1 + x2) / 2.0 - left.to(tl.float64) / across) / broad
            row_factor, column_factor = 1.0 / (tall * down), 1.0 / (broad * across)
    else:
        left, right, top, bottom, column, row, radius = gaussian_span(
            x1, y1, x2, y2, usable, image_height, image_width, height, width,
            OVERLAP, PROFILE == GAUSSIAN_LEGACY,
        )  # fmt: skip
        six_sigma = 2.0 * radius + 1.0
        row_factor = 18.0 / (six_sigma * six_sigma)
        column_factor = row_factor
        row_offset, column_offset = row - top.to(tl.float64), column - left.to(tl.float64)
    tl.store(windows + at, left, mask=exists)
    tl.store(windows + at + 1, right, mask=exists)
    tl.store(windows + at + 2, top, mask=exists)
    tl.store(windows + at + 3, bottom, mask=exists)
    if PROFILE != BOX:
        tl.store(numbers + at, row_offset.to(tl.float32), mask=exists)
        tl.store(numbers + at + 1, row_factor.to(tl.float32), mask=exists)
        tl.store(numbers + at + 2, column_offset.to(tl.float32), mask=exists)
        tl.store(numbers + at + 3, column_factor.to(tl.float32), mask=exists)


@triton.jit
def load_window(windows, at):
    """left, right, top, bottom of the object at a place of `windows`."""
    return (
        tl.load(windows + 4 * at),
        tl.load(windows + 4 * at + 1),
        tl.load(windows + 4 * at + 2),
        tl.load(windows + 4 * at + 3),
    )


@triton.jit
def profile_at(numbers, at, down, right, PROFILE: tl.constexpr):
    """The profile `down` rows and `right` columns from the first cell of an object's window."""
    if PROFILE == BOX:
        return tl.full(down.shape, 1.0, tl.float32)
    row_offset, row_factor = tl.load(numbers + 4 * at), tl.load(numbers + 4 * at + 1)
    column_offset, column_factor = tl.load(numbers + 4 * at + 2), tl.load(numbers + 4 * at + 3)
    y, x = down.to(tl.float32), right.to(tl.float32)
    if PROFILE == PYRAMID:
        far_y = tl.abs(y * row_factor - row_offset)
        far_x = tl.abs(x * column_factor - column_offset)
        return 1.0 - tl.maximum(far_y, far_x)
    y, x = y - row_offset, x - column_offset
    return tl.exp(-(y * y * row_factor + x * x * column_factor))
