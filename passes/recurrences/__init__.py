"""Linear recurrences and their chunked forms."""
