"""Records -> what a reader sees: tables, figures, sentences and the report."""
