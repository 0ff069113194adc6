"""From events to sessions: cells, panes, and sessions made right again."""
