-- The activity stream with what depends on all of a customer's history; `$stored` holds the rows as they are stored.
-- An engine computes neither column where it is not asked for.
SELECT
    *,
    row_number() OVER same_activity AS activity_occurrence,
    lead(ts) OVER same_activity AS activity_repeated_at
FROM $stored
WINDOW same_activity AS (
    PARTITION BY coalesce(customer, anonymous_customer_id), activity ORDER BY ts, activity_id
)
