-- Clicked within an hour of opening an e-mail, by day: e-mails opened, how many a click followed, and how soon.
-- dates: user_stream
-- The click is the customer's first after the opening, by (ts, activity_id). This is the question of `clickstream
-- cohort email_open --append 'first_after click within 1h'`, in one scan and one window, returning only the time.
WITH moments AS (
    SELECT activity, ts, date, coalesce(customer, anonymous_customer_id) AS customer_key,
        min(ts) FILTER (activity = 'click') OVER (
            PARTITION BY coalesce(customer, anonymous_customer_id) ORDER BY ts, activity_id
            ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING
        ) AS clicked_at
    FROM user_stream
    WHERE activity IN ('email_open', 'click') AND date BETWEEN DATE '$since' AND DATE '$until' + 1
), opened AS (
    SELECT date AS day, customer_key, epoch_us(clicked_at - ts) / 6e7 AS minutes
    FROM moments
    WHERE activity = 'email_open' AND date <= DATE '$until'
)
SELECT day, count(*) AS opened,
    count(*) FILTER (minutes <= 60) AS clicked_within_1h,
    round(count(*) FILTER (minutes <= 60) / count(*), 4) AS share,
    count(DISTINCT customer_key) AS customers,
    count(DISTINCT customer_key) FILTER (minutes <= 60) AS customers_clicked,
    round(median(minutes) FILTER (minutes <= 60), 3) AS median_minutes_to_click
FROM opened
GROUP BY ALL
ORDER BY day
