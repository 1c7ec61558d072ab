-- Which verdicts are others in a second run, though the modulator was asked about the same?
-- Of two logs.
-- Asked about the same: of equal inputs. `direct`: by another prompt. `edited`: whoever forked the run gave one of the verdicts. `noise`:
-- by the same prompt. The question about an action and its verdict are taken from the events in one pass.
WITH
judged AS (
    SELECT
        scene,
        coalesce(event[1], left(event[3], -length('/feasible'))) AS action,
        any_value(event[2]) AS feasible,
        any_value(event[4]) AS template,
        any_value(event[5]) AS inputs
    FROM (
        SELECT scene, payload ->> ['action', 'feasible', 'path', 'template', 'inputs'] AS event FROM events
        WHERE kind = 'FeasibilityJudged' OR (kind = 'TurnCompleted' AND contains(payload, '/feasible","attempt":1,'))
    )
    GROUP BY ALL
),
judged_b AS (
    SELECT
        scene,
        coalesce(event[1], left(event[3], -length('/feasible'))) AS action,
        any_value(event[2]) AS feasible,
        any_value(event[4]) AS template,
        any_value(event[5]) AS inputs
    FROM (
        SELECT scene, payload ->> ['action', 'feasible', 'path', 'template', 'inputs'] AS event FROM b.events
        WHERE kind = 'FeasibilityJudged' OR (kind = 'TurnCompleted' AND contains(payload, '/feasible","attempt":1,'))
    )
    GROUP BY ALL
),
flipped AS MATERIALIZED (
    SELECT scene, action, action || '/feasible' AS path, a.template = b.template AS same, a.feasible, b.feasible AS b_feasible
    FROM judged a JOIN judged_b b USING (scene, action)
    WHERE a.feasible != b.feasible AND a.inputs = b.inputs
),
edited AS (
    SELECT DISTINCT edit ->> 'scene' AS scene, edit ->> 'at' AS path
    FROM (
        SELECT unnest(execution -> '$.change.edits[*]') AS edit FROM run
        UNION ALL
        SELECT unnest(execution -> '$.change.edits[*]') FROM b.run
    )
),
odds AS (
    SELECT scene, path, arg_max_null(log_odds, attempt) AS log_odds FROM completions SEMI JOIN flipped USING (scene, path) GROUP BY ALL
),
odds_b AS (
    SELECT scene, path, arg_max_null(log_odds, attempt) AS log_odds FROM b.completions SEMI JOIN flipped USING (scene, path) GROUP BY ALL
)
SELECT
    s.position,
    lower(hex(flipped.scene)) AS scene,
    flipped.action,
    CASE
        WHEN flipped.path IN (SELECT path FROM edited WHERE scene = '')
            OR (lower(hex(flipped.scene)), flipped.path) IN (SELECT (scene, path) FROM edited) THEN 'edited'
        WHEN flipped.same THEN 'noise'
        ELSE 'direct'
    END AS change,
    flipped.feasible::BOOLEAN AS feasible,
    flipped.b_feasible::BOOLEAN AS b_feasible,
    odds.log_odds,
    odds_b.log_odds AS b_log_odds
FROM flipped
JOIN scenes s USING (scene)
LEFT JOIN odds USING (scene, path)
LEFT JOIN odds_b USING (scene, path)
ORDER BY s.position, flipped.action
