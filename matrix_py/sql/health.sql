-- How healthy a run's simulations were: so many of so many. A reaction is repeated if one before it in the scene says the same but for case.
SELECT 'infeasible' AS measure, NULL AS kind, count(*) FILTER (payload ->> 'feasible' = 'false') AS count, count(*) AS total
FROM events WHERE kind = 'FeasibilityJudged'
UNION ALL
SELECT 'unnoticed', NULL, count(*) FILTER (json_array_length(payload, '$.recipients') = 0), count(*)
FROM events WHERE kind = 'ActionNoticed'
UNION ALL
SELECT 'repeated', NULL, count(*) FILTER (place > 1), count(*)
FROM (
    SELECT row_number() OVER (PARTITION BY scene, lower(payload ->> 'text') ORDER BY seq) AS place
    FROM events WHERE kind = 'ActionProposed' AND payload ->> 'origin' = 'reaction'
)
UNION ALL
(SELECT 'length', kind, count(*) FILTER (finish = 'length'), count(*) FROM completions GROUP BY kind ORDER BY kind)
