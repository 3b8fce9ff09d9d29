"""What decoding looks like: one recording, shown in a terminal (`terminal`), as a web page (`trace_page`) or as JSON (`recording`)."""
