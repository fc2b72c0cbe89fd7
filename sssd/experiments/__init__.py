"""Comparisons of methods: many runs, one table."""

import sssd.extras  # noqa: F401  it comes before what may be missing
