"""Comparisons of methods: many runs, one table."""
