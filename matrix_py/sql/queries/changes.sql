-- What changed between two runs, by kind of turn: directly, by inheritance, by an edit, or as noise?
-- Of two logs.
-- Direct: the template of the turn is another. Inherited: what it was filled with is, or the turn is in one run only. Edited: another
-- answer, which whoever forked the run gave. Noise: the same was asked, and another text came, or the same with another end.
-- All fields of a payload are taken in one go, which is what makes it quick.
WITH
asked AS (
    SELECT scene, payload ->> ['path', 'attempt', 'turn', 'template', 'inputs', 'text', 'outcome', 'finish'] AS turn
    FROM events WHERE kind = 'TurnCompleted'
),
asked_b AS (
    SELECT scene, payload ->> ['path', 'attempt', 'turn', 'template', 'inputs', 'text', 'outcome', 'finish'] AS turn
    FROM b.events WHERE kind = 'TurnCompleted'
),
edited AS (
    SELECT DISTINCT edit ->> 'scene' AS scene, edit ->> 'at' AS path
    FROM (
        SELECT unnest(execution -> '$.change.edits[*]') AS edit FROM run
        UNION ALL
        SELECT unnest(execution -> '$.change.edits[*]') FROM b.run
    )
),
both_runs AS (
    SELECT scene FROM scenes INTERSECT SELECT scene FROM b.scenes
),
compared AS (
    SELECT
        coalesce(a.turn[3], b.turn[3]) AS kind,
        CASE
            WHEN b.turn IS NULL THEN 'only_a'
            WHEN a.turn IS NULL THEN 'only_b'
            WHEN a.turn[6:] != b.turn[6:] AND (
                a.turn[1] IN (SELECT path FROM edited WHERE scene = '')
                OR (lower(hex(a.scene)), a.turn[1]) IN (SELECT (scene, path) FROM edited)
            ) THEN 'edited'
            WHEN a.turn[4] != b.turn[4] THEN 'direct'
            WHEN a.turn[5] != b.turn[5] THEN 'inherited'
            WHEN a.turn[6:] != b.turn[6:] THEN 'noise'
            ELSE 'same'
        END AS change
    FROM (FROM asked SEMI JOIN both_runs USING (scene)) a
    FULL JOIN (FROM asked_b SEMI JOIN both_runs USING (scene)) b
        ON b.scene = a.scene AND b.turn[1] = a.turn[1] AND b.turn[2] = a.turn[2]
)
SELECT
    kind,
    count(*) AS turns,
    count(*) FILTER (change = 'same') AS same,
    count(*) FILTER (change = 'direct') AS direct,
    count(*) FILTER (change IN ('inherited', 'only_a', 'only_b')) AS inherited,
    count(*) FILTER (change = 'edited') AS edited,
    count(*) FILTER (change = 'noise') AS noise,
    count(*) FILTER (change = 'only_a') AS only_a,
    count(*) FILTER (change = 'only_b') AS only_b
FROM compared
GROUP BY kind
ORDER BY kind
