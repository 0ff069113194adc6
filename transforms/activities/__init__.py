"""Typed events, the activity stream, and what is counted of them: funnels, daily facts."""
