"""Pages that a person opens: what they are made of, and the report of a run."""
