-- How do scenes end, and how often was there harm to revise for?
SELECT state, end_reason, count(*) AS scenes, round(avg(interactions), 1) AS interactions, count(*) FILTER (kept) AS kept,
    count(revision) AS revised
FROM scene
GROUP BY ALL
ORDER BY scenes DESC, state, end_reason
