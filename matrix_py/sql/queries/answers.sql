-- Which roles answer which?
-- $most = 50: rows at most
SELECT lower(cause.role) AS role, lower(a.role) AS answered_by, count(*) AS times, count(*) FILTER (a.took_place) AS took_place
FROM (SELECT scene, role, took_place, unnest(causes) AS cause FROM action WHERE origin = 'reaction') a
JOIN (SELECT scene, action, role FROM action) cause ON cause.scene = a.scene AND cause.action = a.cause
GROUP BY ALL
ORDER BY times DESC, role, answered_by
LIMIT $most
