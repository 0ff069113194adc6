"""Typed events, the activity stream, and the aggregates computed from them: funnels and daily metrics."""
