"""The snapshot of an interactive story with a column a decision, whose names come from the lake."""

from stores.lake_sql import LakeConnection
from stores.sql_text import literal, quoted


def snapshot_sql(lake: LakeConnection, episode: str | None) -> str:
    """One SELECT over the view story_episodes: a row a viewer, session and episode, a column a decision.

    Args:
        lake: The lake, which says what decisions there are.
        episode: The episode whose rows and decisions are wanted; None for all.

    Raises:
        InputError: The lake has no user_stream.
    """
    where = "" if episode is None else f" WHERE episode_id = {literal(episode)}"
    nodes = lake.sql(f"SELECT DISTINCT choice_node_id FROM story_choices{where} ORDER BY 1").fetchall()
    columns = ["* EXCLUDE (choices, standing)"]
    columns += [f"choices[{literal(node)}] AS {quoted(node)}" for (node,) in nodes]
    return f"SELECT {', '.join(columns)} FROM story_episodes{where} ORDER BY session_start, device_id, episode_id"
