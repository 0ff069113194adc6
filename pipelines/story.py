"""SQL of an interactive story's snapshot, with one column per decision found in the lake."""

from stores.lake_sql import LakeConnection
from stores.sql_text import literal, quoted


def snapshot_sql(lake: LakeConnection, episode: str | None) -> str:
    """A SELECT over the view story_episodes: one row per viewer, session and episode, one column per decision.

    Args:
        lake: The lake, from which the decisions are read.
        episode: The episode to select; None for all.

    Raises:
        InputError: The lake has no user_stream.
    """
    where = "" if episode is None else f" WHERE episode_id = {literal(episode)}"
    nodes = lake.sql(f"SELECT DISTINCT choice_node_id FROM story_choices{where} ORDER BY 1").fetchall()
    columns = ["* EXCLUDE (choices, standing)"]
    columns += [f"choices[{literal(node)}] AS {quoted(node)}" for (node,) in nodes]
    return f"SELECT {', '.join(columns)} FROM story_episodes{where} ORDER BY session_start, device_id, episode_id"
