-- The activity stream with two columns that depend on a customer's whole history; `$stored` is the stored table.
-- The engine computes them only for queries that select them.
SELECT
    *,
    row_number() OVER same_activity AS activity_occurrence,
    lead(ts) OVER same_activity AS activity_repeated_at
FROM $stored
WINDOW same_activity AS (
    PARTITION BY coalesce(customer, anonymous_customer_id), activity ORDER BY ts, activity_id
)
