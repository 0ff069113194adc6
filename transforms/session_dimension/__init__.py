"""dim_sessions: a user's numbered sessions across devices, and the position of each event in them."""
