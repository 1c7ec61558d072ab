-- What became of the scenes in two runs?
-- Of two logs.
SELECT
    a.state,
    b.state AS b_state,
    CASE WHEN a.revision IS NOT NULL THEN 'revised' WHEN a.kept THEN 'kept' END AS response,
    CASE WHEN b.revision IS NOT NULL THEN 'revised' WHEN b.kept THEN 'kept' END AS b_response,
    count(*) AS scenes,
    count(*) FILTER (a.consequence = b.consequence) AS same_consequence,
    count(*) FILTER (a.revision = b.revision) AS same_revision
FROM scene a JOIN b.scene b USING (scene)
GROUP BY ALL
ORDER BY scenes DESC, a.state, b_state, response, b_response
